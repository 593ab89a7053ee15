"""The page in a real browser: no error, no request, all parts shown and interactive, accessible."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from isic.core.paths import Layout
from isic.report.page import SECTIONS
from tests.browser import needs_chromium, opened

from .test_page import page as make_page

pytestmark = needs_chromium

READY = "() => document.documentElement.dataset.ready === 'yes'"


class Tab:
    """A page opened from disk, with its errors."""

    def __init__(self, context, path: Path) -> None:
        self.page = context.new_page()
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on(
            "console",
            lambda m: self.errors.append(m.text) if m.type in ("error", "warning") else None,
        )
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_function(READY, timeout=60_000)


@pytest.fixture(scope="module")
def report(run_dir: Layout) -> Path:
    make_page(run_dir)
    return run_dir.report


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with opened() as running:
        yield running


@pytest.fixture(scope="module")
def tab(browser, report: Path) -> Tab:
    return Tab(browser.new_context(viewport={"width": 1280, "height": 900}), report)


def test_it_opens_without_an_error_or_an_outside_request(tab: Tab) -> None:
    assert tab.errors == []
    assert [url for url in tab.requests if not url.startswith(("file:", "data:", "blob:"))] == []


def test_it_is_read_in_some_ten_screens(tab: Tab) -> None:
    assert tab.page.evaluate("document.body.scrollHeight") < 12_000


def test_every_section_is_visible(tab: Tab) -> None:
    for name, title in SECTIONS:
        assert tab.page.locator(f"#{name} h2").is_visible(), title


def test_the_roc_curve_answers_a_click(tab: Tab) -> None:
    point = tab.page.locator("#roc-live .trace.scatter").last.locator(".point").nth(5)
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    tab.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.page.wait_for_function(
        "() => document.getElementById('roc-status').textContent.startsWith('Flagging')"
    )


def test_a_sensitivity_can_be_chosen_by_keyboard(tab: Tab) -> None:
    tab.page.locator("#roc-pick").select_option(index=2)
    assert "finds" in tab.page.locator("#roc-status").inner_text()


def test_the_body_map_and_its_list_follow_the_chosen_patient(tab: Tab) -> None:
    before = tab.page.locator("#patient-status").inner_text()
    tab.page.locator("#after").click()
    assert tab.page.locator("#patient-status").inner_text() != before
    assert tab.page.locator("#map-live .point").count() > 5
    button = tab.page.locator("#tiles button").first
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert button.get_attribute("data-id") in tab.page.locator("#lesion-status").inner_text()


def test_a_dot_of_the_body_map_answers_a_click(tab: Tab) -> None:
    tab.page.locator("#map-live").scroll_into_view_if_needed()
    box = tab.page.locator("#map-live .point").last.bounding_box()
    tab.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.page.wait_for_function(
        "() => !document.getElementById('lesion-status').textContent.startsWith('Choose')"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_accessibility_fault(browser, report: Path, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python")
    shown = Tab(browser.new_context(color_scheme=scheme), report)
    shown.page.evaluate(files(axe).joinpath("axe.min.js").read_text(encoding="utf-8"))
    found = shown.page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")[
        "violations"
    ]
    assert [
        (fault["id"], fault["nodes"][0]["html"][:200])
        for fault in found
        if fault["impact"] != "minor"
    ] == []


def test_the_theme_button_turns_the_page_dark(browser, report: Path) -> None:
    shown = Tab(browser.new_context(color_scheme="light"), report)
    colour = "() => getComputedStyle(document.body).backgroundColor"
    assert shown.page.evaluate(colour) == "rgb(255, 255, 255)"
    shown.page.locator("#theme").click()
    assert shown.page.evaluate(colour) == "rgb(20, 24, 29)"


def test_a_phone_needs_no_sideways_scrolling(browser, report: Path) -> None:
    shown = Tab(browser.new_context(viewport={"width": 360, "height": 740}), report)
    assert shown.page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


def test_print_shows_the_still_picture(tab: Tab) -> None:
    tab.page.emulate_media(media="print")
    assert tab.page.locator("#figure-roc .static svg").is_visible()
    assert not tab.page.locator("#roc-live").is_visible()
    tab.page.emulate_media(media="screen")


def test_dark_on_the_screen_is_light_on_paper(browser, report: Path) -> None:
    shown = Tab(browser.new_context(color_scheme="dark"), report)
    shown.page.locator("#theme").click()
    shown.page.locator("#theme").click()
    colours = (
        "() => { const style = getComputedStyle(document.body); return [style.color,"
        " style.backgroundColor]; }"
    )
    label = "() => getComputedStyle(document.querySelector('#map-live .annotation-text')).fill"
    dark, drawn_dark = shown.page.evaluate(colours), shown.page.evaluate(label)
    assert dark == ["rgb(232, 236, 241)", "rgb(20, 24, 29)"]
    shown.page.emulate_media(media="print", color_scheme="dark")
    assert shown.page.evaluate(colours) == ["rgb(27, 31, 36)", "rgb(255, 255, 255)"]
    # The event of a browser before printing; emulation does not send it.
    shown.page.evaluate("() => dispatchEvent(new Event('beforeprint'))")
    assert shown.page.evaluate(label) == "rgb(84, 93, 105)"
    shown.page.emulate_media(media="screen", color_scheme="dark")
    shown.page.evaluate("() => dispatchEvent(new Event('afterprint'))")
    assert (shown.page.evaluate(colours), shown.page.evaluate(label)) == (dark, drawn_dark)
