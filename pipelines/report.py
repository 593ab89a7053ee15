"""Stage `report`: one self-contained page about the run, and its cards."""

from isic.core.errors import run
from isic.core.params import load_params
from isic.core.paths import Layout
from isic.report.build import build
from isic.report.evidence import read_evidence
from isic.report.reasons import reasons
from isic.tracking import parent
from isic.tracking.context import run_tags


def main() -> None:
    layout = Layout.find()
    params = load_params(layout.params)
    evidence = read_evidence(layout, tuple(params.image.backbones))
    values = params.model_dump(mode="json", by_alias=True)
    build(layout, evidence, values, run_tags(layout), reasons(layout, params) if layout.stack_model.is_dir() else None)
    with parent("stack", params.scoring()) as tracker:
        for name in ("index.html", "model_card.md", "data_card.md"):
            tracker.artifact(layout.report.parent / name, "report")


if __name__ == "__main__":
    run(main)
