"""Stage `evaluate`: metrics and plot points of the out-of-fold scores, logged to their runs."""

from isic.core.errors import run
from isic.core.io import write_json
from isic.core.params import load_params
from isic.core.paths import Layout
from isic.evaluate.evaluate import describe_result, evaluate, headline_metrics
from isic.evaluate.figures import FIGURES
from isic.evaluate.ladder import network_scores
from isic.evaluate.learning import learning_records
from isic.evaluate.results import read_results
from isic.evaluate.theme import PAPER
from isic.tracking import parent
from isic.tracking.oof import log_oof, log_scores, scalar_metrics


def main() -> None:
    layout = Layout.find()
    params = load_params(layout.params)
    backbones = tuple(params.image.backbones)
    logits = layout.embeddings(backbones, params.folds)
    results = read_results(layout.oof, layout.train_metadata, logits)
    evaluation = evaluate(results, params.evaluate.replicates, params.evaluate.seed)
    models = layout.image_models(backbones, params.folds)
    points = {**evaluation.points, "learning": learning_records(models)}

    # Results first: figures and tracking may fail.
    for name, records in points.items():
        write_json(layout.plots / f"{name}.json", records)
    write_json(layout.root / "models" / "calibration.json", evaluation.calibration.to_json())
    write_json(layout.evaluate_metrics, evaluation.metrics)
    write_json(layout.headline_metrics, headline_metrics(evaluation.metrics))

    for name, scores in network_scores(results, points["ladder"]).items():
        folder = layout.embedding(name, 0).parent
        log_scores(name, params.image_config(name), models[name], folder, scores)
    with parent("stack", params.stack_config()) as tracker:
        log_oof(tracker, layout.train_metadata, layout.oof, layout.stack_model)
        tracker.metrics(scalar_metrics(evaluation.metrics))
        tracker.tags({"mlflow.note.content": describe_result(evaluation.metrics)})
        tracker.artifact(layout.evaluate_metrics)
        for name, draw in FIGURES.items():
            figure = draw(points, PAPER)
            if figure is not None:
                tracker.figure(figure, f"figures/{name}.png")


if __name__ == "__main__":
    run(main)
