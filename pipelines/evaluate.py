"""Stage `evaluate`: metrics and plot points of the out-of-fold scores; scalar metrics on the
stack's run.
"""

from isic.core.errors import run
from isic.core.io import write_json
from isic.core.params import load_params
from isic.core.paths import Layout
from isic.evaluate.evaluate import describe_result, evaluate, headline_metrics, scalar_metrics
from isic.evaluate.figures import FIGURES
from isic.evaluate.learning import learning_records
from isic.evaluate.results import read_results
from isic.evaluate.theme import PAPER
from isic.tracking import parent


def main() -> None:
    layout = Layout.find()
    params = load_params(layout.params)
    backbones = tuple(params.image.backbones)
    results = read_results(
        layout.oof, layout.train_metadata, layout.embeddings(backbones, params.folds)
    )
    evaluation = evaluate(results, params.evaluate.replicates, params.evaluate.seed)
    points = {
        **evaluation.points,
        "learning": learning_records(layout.image_models(backbones, params.folds)),
    }
    # Results first: figures and tracking may fail.
    for name, records in points.items():
        write_json(layout.plots / f"{name}.json", records)
    write_json(layout.root / "models" / "calibration.json", evaluation.calibration.to_json())
    write_json(layout.evaluate_metrics, evaluation.metrics)
    write_json(layout.headline_metrics, headline_metrics(evaluation.metrics))
    with parent("stack", params.stack_config()) as tracker:
        tracker.metrics(scalar_metrics(evaluation.metrics))
        tracker.tags({"mlflow.note.content": describe_result(evaluation.metrics)})
        tracker.artifact(layout.evaluate_metrics)
        # Read by `isic compare RUN RUN`.
        tracker.artifact(layout.oof, "oof")
        for name, draw in FIGURES.items():
            figure = draw(points, PAPER)
            if figure is not None:
                tracker.figure(figure, f"figures/{name}.png")


if __name__ == "__main__":
    run(main)
