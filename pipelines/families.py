"""`isic features --report`: what each feature family gains, measured with the stacker on this checkout's folds."""

from collections.abc import Sequence

from numpy.typing import ArrayLike

from isic.core.errors import run
from isic.core.io import write_json
from isic.core.params import load_params
from isic.core.paths import Layout
from isic.report.features import family_plot, family_report
from isic.stack.fit import fit_problem
from isic.stack.inputs import read_inputs
from isic.stack.problem import prepare


def main() -> None:
    layout = Layout.find()
    params = load_params(layout.params)
    inputs = read_inputs(layout, params.folds, tuple(params.image.backbones), False)
    evidence = params.stack.evidence.model_copy(update={"embeddings": "none"})
    problem = prepare(*inputs[:3], evidence, params.stack.params.max_bin)
    families = [name for name in params.features.families if name not in params.stack.drop]

    def score(names: Sequence[str]) -> ArrayLike:
        dropped = tuple(name for name in families if name not in names) + params.stack.drop
        return fit_problem(problem, params.stack.model_copy(update={"drop": dropped})).oof["score"].to_numpy()

    found = family_report(score, inputs.folds, families, ["raw"], params.evaluate.replicates, params.evaluate.seed)
    write_json(layout.evaluate_metrics.with_name("features.json"), found)
    write_json(layout.root / "metrics" / "families_plot.json", family_plot(found))
    for row in found["families"]:
        added = (
            "" if row["added"] is None else f"{row['added']:+.4f} ({row['added_low']:+.4f} to {row['added_high']:+.4f})"
        )
        left = "" if row["left_out"] is None else f"{row['left_out']:+.4f}"
        print(f"{row['family']:<20} added to raw {added:<32} left out of all {left}")


if __name__ == "__main__":
    run(main)
