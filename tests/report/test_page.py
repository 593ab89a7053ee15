"""The page as a file: complete, self-contained, and written for incomplete runs too."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from markupsafe import escape
from matplotlib.path import Path

from isic.core.errors import InputError
from isic.core.io import read_json, write_json
from isic.core.paths import Layout
from isic.data.tiles import TileStore
from isic.evaluate.config import changed_values, flatten_params
from isic.evaluate.curve_figures import area_above
from isic.evaluate.curves import column_of, group_by
from isic.evaluate.evaluate import evaluate
from isic.evaluate.interval_figures import draw_slices
from isic.evaluate.learning import learning_records
from isic.evaluate.results import RunResults
from isic.report.build import POINTS, build_report
from isic.report.cards import model_card, pretraining_sentences
from isic.report.champion import Champion
from isic.report.findings import findings
from isic.report.lesions import TileGallery, overview, worst_lesions
from isic.report.markdown import literal, to_html
from isic.report.page import (
    MAX_PAGE_BYTES,
    SECTIONS,
    asset,
    figure_svgs,
    origin_line,
    sample_evenly,
)
from isic.report.patients import MAX_DRAWN, patient_entries
from isic.report.shap_text import ShapGroup

from .conftest import FOLDS, results_of

BACKBONES = ("vit", "convnext")
PARAMS = {
    "data": {"source": "sample"},
    "folds": [0, 1, 2],
    "image": {"train": {"weights": "none"}, "backbones": {name: {} for name in BACKBONES}},
    "evaluate": {"replicates": 50, "seed": 0},
    "stack": {"rounds": 150},
}


def judge(layout: Layout) -> RunResults:
    results = results_of(layout, BACKBONES)
    evaluation = evaluate(results, replicates=50, seed=0)
    for name, records in {
        **evaluation.points,
        "learning": learning_records(layout.image_models(BACKBONES, FOLDS)),
    }.items():
        write_json(layout.plots / f"{name}.json", records)
    write_json(layout.evaluate_metrics, evaluation.metrics)
    return results


def page(layout: Layout, **options) -> str:
    results = judge(layout)
    files = layout.report_files(BACKBONES, FOLDS)
    build_report(layout.report, results, files, PARAMS, {"git_commit": "abc"}, **options)
    return layout.report.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def html(run_dir: Layout) -> str:
    return page(run_dir)


class Structure(HTMLParser):
    """Ids, and all addresses that an element would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "srcset", "action") and value:
                self.fetched.append(value)


def read(html: str) -> Structure:
    found = Structure()
    found.feed(html)
    return found


def embedded(html: str) -> dict:
    return json.loads(
        re.search(
            r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL
        ).group(1)
    )


def test_every_section_is_there_and_nothing_is_fetched(html: str) -> None:
    found = read(html)
    assert {name for name, _ in SECTIONS} <= set(found.ids)
    assert len(found.ids) == len(set(found.ids))
    assert all(target.startswith(("#", "data:")) for target in found.fetched)
    assert not re.search(r"url\((?!#)", html.split('id="plotly"')[0])
    assert len(html.encode()) < MAX_PAGE_BYTES


def test_headline_numbers_are_those_of_the_metrics_file(html: str, run_dir: Layout) -> None:
    metrics = read_json(run_dir.evaluate_metrics)
    head = html[html.index('id="headline"') : html.index('id="ladder"')]
    for name in ("pauc", "pauc_low", "pauc_high", "auc"):
        assert f"{metrics[name]:.3f}" in head
    assert "generated" in head


def test_patients_are_those_with_a_malignant_lesion_worst_first(html: str, run_dir: Layout) -> None:
    lesions = overview(results_of(run_dir))
    shown = embedded(html)["patients"]
    ill = lesions[lesions["target"] == 1]
    assert {patient["id"] for patient in shown} == set(ill["patient_id"])
    assert [max(patient["ranks"]) for patient in shown] == sorted(
        ill.groupby("patient_id")["rank"].max()
    )[::-1]
    first = shown[0]
    assert len(first["map"]["x"]) == first["n"] == (lesions["patient_id"] == first["id"]).sum()
    assert sum(first["map"]["t"]) == len(first["ranks"])


def test_a_patient_of_many_lesions_is_thinned_to_the_highest_and_the_malignant(
    new_run: Callable[..., Layout],
) -> None:
    lesions = overview(results_of(new_run(patients=2, positives=8, images=False, folds=2), ()))
    for patient in patient_entries(lesions, TileGallery(None, 0)):
        mine = lesions[lesions["patient_id"] == patient["id"]]
        assert patient["drawn"] == len(patient["map"]["x"]) == MAX_DRAWN < len(mine)
        assert sum(patient["map"]["t"]) == mine["target"].sum()
        assert set(range(1, MAX_DRAWN // 4 + 1)) <= set(patient["map"]["r"])


def test_tiles_stop_at_the_budget_and_what_is_refused_is_counted(run_dir: Layout) -> None:
    store = TileStore(run_dir.train_images)
    gallery = TileGallery(store, budget=5_000)
    taken = [gallery.add(isic_id) for isic_id in store.ids()[:20]]
    assert gallery.spent <= 5_000
    assert 0 < sum(taken) < 20
    assert gallery.over_budget == 20 - sum(taken)


def test_the_worst_cases_are_named_with_tile_and_neighbours(html: str, run_dir: Layout) -> None:
    lesions = overview(results_of(run_dir))
    part = html[html.index('id="failures"') : html.index('id="cards"')]
    lowest = lesions.loc[lesions["target"] == 1].sort_values("score").iloc[0]
    assert part.index(lowest["isic_id"]) < part.index("Worst false alarms")
    assert lesions["isic_id"].iloc[worst_lesions(lesions, 0, 1)[0]] in part
    assert "Nearest on the same patient" in part


def test_cards_say_what_the_model_is_not(html: str, run_dir: Layout) -> None:
    card = (run_dir.report.parent / "model_card.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense:")
    assert "Not a medical device" in card
    assert "Not a medical device" in html
    assert "CC-BY-NC" in (run_dir.report.parent / "data_card.md").read_text(encoding="utf-8")


def test_the_same_run_gives_the_same_page(html: str, run_dir: Layout) -> None:
    assert page(run_dir) == html


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"images": False}, "There are no tiles to show"),
        ({"folds": 1}, "One fold only"),
        ({"positives": 3}, "Only 3 malignant lesions are too few for a reliable pAUC"),
    ],
)
def test_a_run_that_lacks_things_still_has_a_page_that_says_so(
    new_run: Callable[..., Layout], options: dict, says: str
) -> None:
    html = page(new_run(**options))
    assert says in html
    assert {name for name, _ in SECTIONS} <= set(read(html).ids)


def test_a_hospital_never_seen_is_a_slice_like_any_other(new_run: Callable[..., Layout]) -> None:
    layout = new_run()
    text = layout.train_metadata.read_text(encoding="utf-8")
    layout.train_metadata.write_text(
        text.replace("ACEMID MIA", "A <new> hospital"), encoding="utf-8"
    )
    html = page(layout)
    assert "A &lt;new&gt; hospital" in html
    assert "A <new> hospital" not in html


def test_a_dollar_in_a_name_is_no_formula(html: str, run_dir: Layout) -> None:
    names = [r"Clinic $\foo$ B", "a $^$ b", "Pay $5 or $6 Hospital"]
    record = {"positives": 20, "pauc": 0.1, "low": 0.05, "high": 0.15}
    points = {name: read_json(run_dir.plots / f"{name}.json") for name in POINTS}
    points["slices"] = [{"slice": name, **record} for name in names]
    points["ladder"] = [{**points["ladder"][-1], "step": name} for name in names]
    points["learning"] = [{**row, "backbone": names[0]} for row in points["learning"]]
    drawn = figure_svgs(points)
    for name in names:
        assert f">{name} (20)</text>" in drawn["slices"]
        assert f">{name}</text>" in drawn["ladder"]
    assert f">{names[0]}</text>" in drawn["learning"]
    # Powers of ten stay formulas.
    assert r">$\mathdefault" not in drawn["decision"]
    paper = io.StringIO()
    draw_slices(points).savefig(paper, format="svg")
    assert all(f"<!-- {name} (20) -->" in paper.getvalue() for name in names)


def test_dark_colours_are_for_screens_only() -> None:
    """Light ink on white paper is unreadable; the theme chosen for the screen is kept."""
    css = re.sub(r"/\*.*?\*/", "", asset("page.css"), flags=re.DOTALL)
    media: list[str] = []
    dark: list[tuple[str, ...]] = []
    # A rule is the text before a brace, under the conditions of all enclosing braces.
    for prelude, mark in re.findall(r"([^{};]*)([{};])", css):
        if mark == "{":
            media.append(" ".join(prelude.split()))
        elif "--paper: #14181d" in " ".join(prelude.split()):
            dark.append(tuple(media))
        if mark == "}":
            media.pop()
    assert [len(rule) for rule in dark] == [2, 2]
    assert all(rule[0].startswith("@media screen") for rule in dark)


def test_a_broken_tile_is_counted_not_fatal(new_run: Callable[..., Layout]) -> None:
    import h5py

    layout = new_run()
    lesions = overview(results_of(layout))
    isic_id = lesions["isic_id"].iloc[worst_lesions(lesions, 1, 1)[0]]
    with h5py.File(layout.train_images, "a") as file:
        del file[isic_id]
        file[isic_id] = np.bytes_(b"no picture")
    assert f"the first is {isic_id}" in page(layout)


def test_without_the_evaluation_there_is_one_clear_line(new_run: Callable[..., Layout]) -> None:
    layout = new_run()
    with pytest.raises(InputError, match=r"evaluate\.json"):
        build_report(
            layout.report,
            results_of(layout, BACKBONES),
            layout.report_files(BACKBONES, FOLDS),
            PARAMS,
            {},
        )
    assert not layout.report.exists()


def test_the_champion_is_compared_and_what_changed_is_listed(run_dir: Layout) -> None:
    results = results_of(run_dir, BACKBONES)
    old = results.oof.assign(score=-results.oof["score"])
    champion = Champion(
        "isic-2024 v3", old, {**PARAMS, "stack": {"rounds": 99}}, {"data_hash": "f" * 64}
    )
    html = page(run_dir, champion=champion)
    assert "isic-2024 v3" in html
    assert "This run is better" in html
    assert "stack.rounds" in html
    assert "data_hash" in html


def test_a_champion_of_other_data_is_named_but_not_compared(run_dir: Layout) -> None:
    results = results_of(run_dir, BACKBONES)
    other = results.oof.assign(isic_id=[f"X{i}" for i in range(len(results.oof))])
    assert "share no isic_id" in page(run_dir, champion=Champion("v1", other, PARAMS, {}))


def test_what_stands_out_is_said_first_with_a_link_to_where_it_is_shown(
    html: str, run_dir: Layout
) -> None:
    head = html[html.index("Where to look next") : html.index('id="ladder"')]
    links = set(re.findall(r'href="#(\w+)"', head))
    assert {"slices", "failures"} <= links <= {name for name, _ in SECTIONS}
    lesions = overview(results_of(run_dir))
    missed = ((lesions["target"] == 1) & (lesions["rank"] > 15)).sum()
    assert f"{missed} of 60 malignant lesions" in head or missed == 0


def slice_record(name: str, pauc: float | None, high: float = 0.2) -> dict:
    return {"family": "sex", "slice": name, "pauc": pauc, "low": 0.0, "high": high}


def found(ladder: dict, slices: list[dict], robustness: dict | None = None) -> list[str]:
    lesions = pd.DataFrame({"target": [1, 0], "rank": [1, 2], "of": [2, 2]})
    points = {"ladder": [ladder, {"step": "stack", "pauc": 0.15}], "slices": slices}
    return [f"{item.bold} {item.rest}" for item in findings(points, lesions, robustness)]


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (0.01, 0.03, "Images help"),
        (-0.03, -0.01, "Images hurt"),
        (-0.01, 0.01, "No evidence that images add"),
    ],
)
def test_a_finding_claims_no_more_than_its_interval(low: float, high: float, says: str) -> None:
    step = {"step": "features alone", "gain": (low + high) / 2, "gain_low": low, "gain_high": high}
    assert found(step, [])[0].startswith(says)


def test_the_weakest_slice_is_named_and_called_noise_when_its_interval_holds_the_whole() -> None:
    step = {"step": "stack", "gain": None}
    assert found(step, [slice_record("male", 0.1, 0.12), slice_record("female", 0.16)])[
        0
    ].startswith("Weakest in sex male")
    assert (
        "within the noise"
        in found(step, [slice_record("male", 0.1, 0.17), slice_record("female", None)])[0]
    )
    assert "No slice can be judged" in found(step, [slice_record("male", None)])[0]
    assert "No malignant lesion missed" in found(step, [slice_record("male", None)])[-1]


def test_a_lost_column_and_an_unseen_hospital_are_findings_only_with_evidence() -> None:
    step = {"step": "stack", "gain": None}
    change = {
        "hospital": "all pooled",
        "note": "",
        "change": -0.02,
        "change_low": -0.03,
        "change_high": -0.01,
    }
    columns = [
        {"group": name, "change": c, "low": c - 0.01, "high": c + 0.01}
        for name, c in (("age", -0.02), ("sex", 0.0))
    ]
    robustness = {"hospitals": {"records": [change]}, "columns": {"records": columns}}
    lines = found(step, [], robustness)
    assert lines[1].startswith("An unseen hospital is scored worse: pAUC −0.020 (−0.030 to −0.010)")
    assert lines[2].startswith("Most important measurement, age")
    weak = {
        "hospitals": {"records": [{**change, "change_high": 0.01}]},
        "columns": {"records": columns[1:]},
    }
    weak_lines = found(step, [], weak)[1:]
    assert ["No evidence of a loss at an unseen hospital" in line for line in weak_lines] == [
        True,
        False,
    ]


def test_the_shaded_area_of_each_fold_is_its_pauc(run_dir: Layout) -> None:
    judge(run_dir)
    metrics = read_json(run_dir.evaluate_metrics)
    by_fold = group_by(read_json(run_dir.plots / "roc_folds.json"), "fold")
    for fold in metrics["folds"]:
        records = by_fold[fold["fold"]]
        fpr, tpr = column_of(records, "fpr"), column_of(records, "tpr")
        assert area_above(fpr, tpr) == pytest.approx(fold["pauc"], abs=1e-9)


def test_the_outline_is_a_closed_body_that_holds_the_lesions(html: str) -> None:
    outline = np.array(embedded(html)["body"]["outline"])
    assert (outline[:, 0].min(), outline[:, 1].max()) == (-outline[:, 0].max(), 1795)
    # Chest, hands and feet of the published coordinates lie inside, the gap between the legs does
    # not.
    body = Path(outline)
    assert body.contains_points(
        [(0, 1300), (385, 1050), (-385, 1050), (200, 300), (-200, 300), (0, 1650)]
    ).all()
    assert not body.contains_points([(0, 400), (300, 600), (-450, 1400)]).any()


def test_what_families_gain_is_shown_while_it_speaks_of_these_lesions(
    new_run: Callable[..., Layout],
) -> None:
    layout = new_run(lesions=120)
    judge(layout)
    metrics = read_json(layout.evaluate_metrics)
    row = {
        "family": "patient_z",
        "used": True,
        "added": 0.01,
        "added_low": -0.01,
        "added_high": 0.03,
    }
    row |= dict.fromkeys(
        f"{way}{end}" for way in ("left_out", "put_in") for end in ("", "_low", "_high")
    )
    assert "isic features measure" in page(layout)
    for lesions, there in ((metrics["n"], True), (metrics["n"] + 1, False)):
        report = {"lesions": lesions, "malignant": metrics["positives"], "families": [row]}
        write_json(layout.root / "metrics" / "features.json", report)
        assert (">patient_z<" in page(layout)) is there


def test_submissions_and_costs_are_shown_once_they_are_known(
    new_run: Callable[..., Layout],
) -> None:
    layout = new_run(lesions=120)
    judge(layout)
    empty = page(layout)
    assert "No submission yet" in empty
    assert "pAUC against cost: not measured" in empty
    entry = {"at": "2026-01-01T00:00:00+00:00", "model": "isic-2024", "version": 3}
    scores = {"pauc": 0.171, "pauc_low": 0.16, "pauc_high": 0.18, "public": 0.1712, "private": None}
    layout.ledger.parent.mkdir(exist_ok=True)
    layout.ledger.write_text(json.dumps(entry | scores) + "\n")
    cost = {"parameters": 1e6, "gflops": 0.5, "milliseconds": 3.0, "megabytes": 4.0}
    records = [
        {"kind": kind, "name": kind, "pauc": value, **cost}
        for kind, value in (("version", 0.171), ("network", None))
    ]
    write_json(layout.frontier, {"records": records})
    shown = page(layout)
    assert "isic-2024/3" in shown
    assert '<td class="num">0.1712</td><td class="num">–</td>' in shown
    assert 'id="figure-leaderboard"' in shown
    assert 'id="figure-frontier"' in shown


def test_changes_are_found_in_both_directions() -> None:
    before, after = (
        flatten_params({"a": {"b": 1, "c": [1, 2]}}),
        flatten_params({"a": {"b": 2, "c": [1, 2]}, "d": 3}),
    )
    assert [change["key"] for change in changed_values(before, after)] == ["a.b", "d"]


@pytest.mark.parametrize(
    ("generated", "licences", "header"),
    [
        (True, [], "mit"),
        (True, ["CC-BY-NC"], "cc-by-nc-4.0"),
        (True, ["CC-BY"], "cc-by-4.0"),
        (True, ["unknown"], "other"),
        (False, ["CC-BY"], "cc-by-nc-4.0"),
    ],
)
def test_the_card_has_the_strictest_licence_of_what_trained(
    generated: bool, licences: list[str], header: str, run_dir: Layout
) -> None:
    results = results_of(run_dir)
    source = {
        "source": "isic2020",
        "use": "pretrain",
        "pictures": 33_000,
        "malignant": 580,
        "left_out_for_patients": 126,
        "licences": licences,
        "backbones": ["vit"],
    }
    sources = [source] if licences else []
    metrics = read_json(run_dir.evaluate_metrics)
    card = model_card(metrics, PARAMS, {}, generated, results.rows, sources)
    assert f"license: {header}\n" in card
    assert ("not for commercial use" in card) == (header == "cc-by-nc-4.0")
    assert ("33,000 of `isic2020`" in card) == bool(licences)


def test_networks_pretrained_on_generated_tiles_are_named_in_the_card(
    run_dir: Layout,
) -> None:
    rows = results_of(run_dir).rows
    image = {"train": {"weights": "generated"}, "backbones": {"vit": {}, "a": {"weights": "hub"}}}
    params = PARAMS | {"image": image, "data": {"source": "sample"}}
    card = model_card(read_json(run_dir.evaluate_metrics), params, {}, True, rows)
    assert "Networks pre-trained on generated tiles: vit. They are evaluated on gener" in card
    own = image | {"train": {"weights": "none"}}
    assert pretraining_sentences(params | {"image": own}) == []


def test_cards_become_html_and_nothing_else_does() -> None:
    html = to_html(
        "---\nx: 1\n---\n# Title\n\ntext **bold** `code` <b>\n\n| a | b |\n|---|---|\n| 1 | 2"
        " |\n\n- one\n- two\n"
    )
    assert "<h3>Title</h3>" in html
    assert "<b>bold</b> <code>code</code> &lt;b&gt;" in html
    assert html.count("<td>") == 2
    assert html.count("<li>") == 2


def test_thinning_keeps_both_ends() -> None:
    assert sample_evenly(range(100), 5) == [0, 25, 50, 74, 99]
    assert sample_evenly([1, 2], 5) == [1, 2]


def test_the_first_screen_names_date_run_commit_and_version(html: str) -> None:
    provenance = {
        "date": "2026-11-27",
        "run": "stack-12345678",
        "git_commit": "0123456789abcdef",
        "git_dirty": "true",
        "version": "0.2",
    }
    assert origin_line(provenance) == (
        "Made on 2026-11-27, run stack-12345678, commit 0123456789 with uncommitted changes,"
        " isic 0.2."
    )
    assert origin_line({}) == ""
    assert html.index("Commit abc.") < html.index('id="headline"')


def test_titles_stand_above_their_figures(html: str) -> None:
    for figure in re.findall(r'<figure id="figure-.*?</figure>', html, re.DOTALL):
        if "<svg" in figure:
            assert figure.index("<figcaption>") < figure.index("<svg")


def test_the_operating_point_is_preset_where_the_pauc_begins(html: str) -> None:
    (chosen,) = re.findall(r'<option value="\d+" selected>([\d.]+) %</option>', html)
    assert 80 <= float(chosen) < 85


def test_slices_too_small_to_judge_take_one_line_a_family(html: str, run_dir: Layout) -> None:
    records = read_json(run_dir.plots / "slices.json")
    small = {record["family"] for record in records if record["pauc"] is None}
    part = html[html.index('id="slices"') : html.index('id="robustness"')]
    assert small
    assert part.count("too few malignant</th>") == len(small)
    for record in records:
        assert str(escape(record["slice"])) in part


def test_a_page_made_before_any_promotion_says_how_to_refresh_it(html: str) -> None:
    assert "Nothing was promoted before this page was made" in html
    assert "<code>dvc repro -f -s report</code>" in html


def test_the_page_has_one_minus_sign(html: str) -> None:
    text = re.sub(r"<(script|style|code|svg|time).*?</\1>|<[^>]+>", " ", html, flags=re.DOTALL)
    assert not re.findall(r"(?<![\w.])-\d[\d.]*", text)


def test_reasons_have_bars_to_the_side_of_their_sign(run_dir: Layout) -> None:
    groups = [ShapGroup("size", 0.8, ()), ShapGroup("the image", -0.4, ("logit low",))]
    html = page(run_dir, reasons=lambda _: lambda _: groups)
    part = html[html.index('id="failures"') : html.index('id="cards"')]
    shown = re.findall(
        r'signed (up|down)" aria-hidden="true"><i style="width:([\d.]+)%"></i></span>'
        r"<span><b>(raised|lowered)</b> by (size|the image)",
        part,
    )
    assert set(shown) == {
        ("up", "50.0", "raised", "size"),
        ("down", "25.0", "lowered", "the image"),
    }


@pytest.mark.parametrize(
    "text",
    [
        '<img src=x onerror="hit()">',
        "</td><script>hit()</script>",
        "[a](javascript:hit()) ![b](x)",
        "`a` **b** _c_ ~~d~~ &lt; \\ | e",
    ],
)
def test_a_name_in_a_card_is_text_wherever_it_is_read(text: str) -> None:
    markdown = pytest.importorskip("markdown_it")
    card = f"| hospital |\n|---|\n| {literal(text)} |\n\nName: {literal(text)}.\n"
    others = markdown.MarkdownIt("commonmark", {"html": True}).enable("table").render(card)
    for html in (to_html(card), others):
        cell = re.search(r"<td>(.*?)</td>", html)
        assert cell is not None
        assert unescape(cell[1]) == text
        assert not re.search(r"<(img|script|a|b|code|em|strong)\b", html)
