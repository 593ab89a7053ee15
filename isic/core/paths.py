"""Paths of all files of a checkout, defined only here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from isic.core.errors import InputError


@dataclass(frozen=True)
class StackFiles:
    """The files that the stacker reads: features, those of thinned patients, recorded folds, and backbone -> fold ->
    `Layout.embedding`.
    """

    features: Path
    thinned: Path
    folds: Path
    fold_count: int
    embeddings: dict[str, dict[int, Path]]

    @property
    def backbones(self) -> tuple[str, ...]:
        return tuple(self.embeddings)


@dataclass(frozen=True)
class TrainFiles:
    """The files of one image fold: recorded folds, metadata, tiles and the folders of imported
    sources to read; the model's and the resume folder to write.
    """

    folds: Path
    metadata: Path
    tiles: Path
    archive: tuple[Path, ...]
    model: Path
    resume: Path


@dataclass(frozen=True)
class ReportFiles:
    """The files that the report page reads; only `metrics` and `plots`, of the stage evaluate, are
    required.

    plots: folder of points. families: ablation of the feature families. models: backbone -> fold ->
    network's folder. ledger: journal of submissions. frontier: cost of versions and networks.
    """

    metrics: Path
    plots: Path
    robustness: Path
    families: Path
    tiles: Path
    models: dict[str, dict[int, Path]]
    ledger: Path
    frontier: Path


@dataclass(frozen=True)
class TrainingFiles:
    """The official training files, and the recorded folds."""

    metadata: Path
    tiles: Path
    folds: Path


@dataclass(frozen=True)
class BundleFiles:
    """The models and results of a bundle.

    networks: backbone -> fold -> folder. logits: backbone -> fold -> `Layout.embedding`.
    """

    training: TrainingFiles
    networks: dict[str, dict[int, Path]]
    logits: dict[str, dict[int, Path]]
    stack: Path
    oof: Path
    calibration: Path
    metrics: Path


@dataclass(frozen=True)
class PromotionFiles:
    """The files of a promotion: it reads `bundle` and `card`, writes `verdict`, appends to
    `promotions`.
    """

    training: TrainingFiles
    bundle: Path
    card: Path
    verdict: Path
    promotions: Path


@dataclass(frozen=True)
class Layout:
    """Paths of one checkout, relative to the folder that holds dvc.yaml."""

    root: Path

    @classmethod
    def find(cls, start: Path | None = None) -> Layout:
        """The layout of the checkout around `start` (default: the working directory).

        Raises InputError when no folder above holds a dvc.yaml.
        """
        start = (start or Path.cwd()).resolve()
        for folder in (start, *start.parents):
            if (folder / "dvc.yaml").is_file():
                return cls(folder)
        raise InputError(
            f"no dvc.yaml in {start} or above it: run this inside a checkout of the project"
        )

    @property
    def params(self) -> Path:
        return self.root / "params.yaml"

    @property
    def raw(self) -> Path:
        return self.root / "data" / "raw"

    @property
    def train_metadata(self) -> Path:
        return self.raw / "train-metadata.csv"

    @property
    def train_images(self) -> Path:
        return self.raw / "train-image.hdf5"

    @property
    def test_metadata(self) -> Path:
        return self.raw / "test-metadata.csv"

    @property
    def sample_submission(self) -> Path:
        return self.raw / "sample_submission.csv"

    @property
    def folds(self) -> Path:
        return self.root / "data" / "folds.parquet"

    def archive(self, source: str) -> Path:
        """Folder of an imported source of `data.archive`."""
        return self.root / "data" / "archive" / source

    def archive_metrics(self, source: str) -> Path:
        return self.root / "metrics" / "archive" / f"{source}.json"

    @property
    def training_files(self) -> TrainingFiles:
        return TrainingFiles(self.train_metadata, self.train_images, self.folds)

    @property
    def features(self) -> Path:
        return self.root / "data" / "features" / "train.parquet"

    @property
    def thinned(self) -> Path:
        """Features of the same lesions, each within a random part of its patient's."""
        return self.root / "data" / "features" / "thinned.parquet"

    def embedding(self, backbone: str, fold: int) -> Path:
        """Parquet of (isic_id, logit); the float16 embeddings are in the same folder with suffix
        .npy, in the same order of rows.
        """
        return self.root / "data" / "embeddings" / backbone / f"fold{fold}.parquet"

    def anchors(self, backbone: str, fold: int) -> Path:
        """Float16 embeddings of the anchors (see `isic.data.anchors`) by this fold's network."""
        return self.embedding(backbone, fold).with_suffix(".anchors.npy")

    def embeddings(
        self, backbones: Iterable[str], folds: Sequence[int]
    ) -> dict[str, dict[int, Path]]:
        """backbone -> fold -> its `embedding` file."""
        return {name: {fold: self.embedding(name, fold) for fold in folds} for name in backbones}

    def stack_files(self, backbones: Iterable[str], folds: Sequence[int]) -> StackFiles:
        return StackFiles(
            self.features, self.thinned, self.folds, len(folds), self.embeddings(backbones, folds)
        )

    @property
    def networks(self) -> Path:
        """Folder of all image networks."""
        return self.root / "models" / "image"

    def image_model(self, backbone: str, fold: int) -> Path:
        return self.networks / backbone / f"fold{fold}"

    def image_models(
        self, backbones: Iterable[str], folds: Sequence[int]
    ) -> dict[str, dict[int, Path]]:
        """backbone -> fold -> its `image_model` folder."""
        return {name: {fold: self.image_model(name, fold) for fold in folds} for name in backbones}

    def train_files(self, backbone: str, fold: int, sources: Iterable[str] = ()) -> TrainFiles:
        """`sources` are the names of `data.archive`."""
        return TrainFiles(
            folds=self.folds,
            metadata=self.train_metadata,
            tiles=self.train_images,
            archive=tuple(self.archive(name) for name in sources),
            model=self.image_model(backbone, fold),
            resume=self.resume("train_image", f"{backbone}-{fold}"),
        )

    @property
    def stack_model(self) -> Path:
        return self.root / "models" / "stack"

    @property
    def oof(self) -> Path:
        return self.root / "data" / "oof" / "stack.parquet"

    @property
    def validate_metrics(self) -> Path:
        return self.root / "metrics" / "validate.json"

    @property
    def evaluate_metrics(self) -> Path:
        return self.root / "metrics" / "evaluate.json"

    @property
    def headline_metrics(self) -> Path:
        return self.root / "metrics" / "headline.json"

    @property
    def robustness_metrics(self) -> Path:
        return self.root / "metrics" / "robustness.json"

    @property
    def register_metrics(self) -> Path:
        return self.root / "metrics" / "register.json"

    @property
    def plots(self) -> Path:
        return self.root / "plots"

    @property
    def report(self) -> Path:
        return self.root / "reports" / "index.html"

    def report_files(self, backbones: Iterable[str], folds: Sequence[int]) -> ReportFiles:
        return ReportFiles(
            metrics=self.evaluate_metrics,
            plots=self.plots,
            robustness=self.robustness_metrics,
            families=self.evaluate_metrics.with_name("features.json"),
            tiles=self.train_images,
            models=self.image_models(backbones, folds),
            ledger=self.ledger,
            frontier=self.frontier,
        )

    @property
    def bundle(self) -> Path:
        return self.root / "models" / "bundle"

    def bundle_files(self, backbones: Iterable[str], folds: Sequence[int]) -> BundleFiles:
        return BundleFiles(
            training=self.training_files,
            networks=self.image_models(backbones, folds),
            logits=self.embeddings(backbones, folds),
            stack=self.stack_model,
            oof=self.oof,
            calibration=self.root / "models" / "calibration.json",
            metrics=self.evaluate_metrics,
        )

    @property
    def promotion_files(self) -> PromotionFiles:
        return PromotionFiles(
            training=self.training_files,
            bundle=self.bundle,
            card=self.report.with_name("model_card.md"),
            verdict=self.register_metrics.with_name("gate.json"),
            promotions=self.promotions,
        )

    @property
    def submission(self) -> Path:
        return self.root / "submission" / "submission.csv"

    @property
    def kaggle(self) -> Path:
        """Folder of the package for Kaggle."""
        return self.submission.with_name("kaggle")

    @property
    def frontier(self) -> Path:
        """Cost of registered versions and their networks, by `isic frontier`."""
        return self.root / "metrics" / "frontier.json"

    @property
    def ledger(self) -> Path:
        """Journal of submissions and their leaderboard scores."""
        return self.submission.with_name("ledger.jsonl")

    @property
    def promotions(self) -> Path:
        return self.root / "registry" / "promotions.jsonl"

    def resume(self, stage: str, key: str) -> Path:
        """Folder of resume state, ignored by git and DVC; `key` is a hash of the stage's parameters
        and inputs.
        """
        return self.root / ".resume" / stage / key
