"""params.yaml as frozen models, one per section. An unknown key is an error that names it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from isic.core.errors import InputError
from isic.core.yaml_files import read_yaml

#: A backbone's name is a folder, a DVC stage and a part of column names.
_BACKBONE = re.compile(r"[A-Za-z0-9]+([_-][A-Za-z0-9]+)*")
#: The name of a source is a folder and a DVC stage.
_SOURCE = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*")
#: Endings of the columns made of a backbone's logits, and the name of the mean of all backbones.
_TAKEN = ("all", "rank", "ratio", "above")


#: The range of seeds of numpy, scikit-learn, torch and LightGBM.
_Seed = Annotated[int, Field(ge=0, lt=2**31)]


#: Keys of params.yaml that were renamed.
_RENAMED = {
    "image.train.tta": "image.tta",
    "image.train.validate_negatives": "image.validate_negatives",
    "stack.evidence": "stack.images",
}
#: Keys of params.yaml that were removed, with the remedy.
_REMOVED = {
    "gate.min_gain_low": (
        "replace it by `gate.false_promotions: 0.03`, the chance that no gain at all passes"
    )
}
#: Keys of `image` that affect run time and the logged scores of epochs only.
_RUN_TIME = {"max_hours", "workers", "cache_gb", "validate_negatives"}


_Tta = Literal["none", "flips"]


class Section(BaseModel):
    """Frozen, strict, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        """A whole number is one however it is written: DVC writes `-S x=1e2` as 100.0."""
        return int(value) if isinstance(value, float) and value.is_integer() else value


class SampleData(Section):
    """Size of the generated data set."""

    patients: Annotated[int, Field(ge=1)]
    lesions: Annotated[int, Field(ge=1)]
    positives: Annotated[int, Field(ge=0)]
    seed: _Seed


class ArchiveSource(Section):
    """Labelled pictures from elsewhere: see `isic.data.archive.forms`."""

    path: str  # folder of tables and pictures, read only
    form: Literal["isic2018", "isic2019", "isic2020", "ham10000", "pad_ufes_20", "folder"]
    px: Annotated[int, Field(ge=32, le=1024)] = 256  # largest side of the kept pictures
    licence: str | None = None  # null: of the table, else of the form


class Data(Section):
    """Where the five official files come from, and further labelled pictures."""

    source: Literal["sample", "folder"]
    folder: str | None = None
    sample: SampleData
    #: By name; absent in old bundles.
    archive: dict[str, ArchiveSource] = {}

    @model_validator(mode="after")
    def _sources_are_plain(self) -> Data:
        for name in self.archive:
            if not _SOURCE.fullmatch(name):
                raise ValueError(
                    f"archive.{name}: use small letters, digits and single _ between them in the"
                    " name"
                )
        return self

    @model_validator(mode="after")
    def _folder_is_named(self) -> Data:
        if self.source == "folder" and not self.folder:
            raise ValueError(
                "source is `folder` but data.folder is empty: set it to the folder of the official"
                " files"
            )
        return self


class Split(Section):
    """How patients are assigned to folds; the number of folds is the length of `folds`."""

    seed: _Seed


class Features(Section):
    """Feature families, by their names in `isic.tabular.registry`."""

    families: tuple[str, ...] = Field(strict=False)


class ImageTrain(Section):
    """Recipe of an image network: all values that decide its weights. A backbone may override each
    of them.
    """

    size: Annotated[int, Field(ge=16, le=1024)] | None  # px; null: the model's own
    model_args: dict[str, Any]  # passed to timm, such as {patch_size: 8}
    weights: str  # hub | generated | none | path of a safetensors file
    seed: _Seed
    epochs: Annotated[int, Field(ge=1)]
    early_stop: (
        Annotated[int, Field(ge=1)] | None
    )  # validations without a better pAUC; null: fixed epochs
    batch_size: Annotated[int, Field(ge=2)]  # tiles per micro-batch and process
    accumulate: Annotated[int, Field(ge=1)]  # micro-batches per optimiser step
    negatives_per_positive: Annotated[float, Field(gt=0)]  # fresh ones in every epoch
    positive_repeats: Annotated[int, Field(ge=1)]  # times a positive is shown per epoch
    augment: Literal["none", "flips", "light", "medium", "heavy"]
    loss: Literal["bce", "focal"]
    focal_gamma: Annotated[float, Field(ge=0)]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    indeterminate: Annotated[
        float, Field(ge=0, le=1)
    ]  # target of a lesion whose diagnosis is indeterminate
    mixup: Annotated[float, Field(ge=0)]  # alpha of the Beta distribution; 0: none
    aux_weight: Annotated[float, Field(ge=0)]  # of the second head on diagnosis groups; 0: none
    lr: Annotated[float, Field(gt=0)]
    head_lr: Annotated[float, Field(gt=0)] | None  # null: lr
    layer_decay: (
        Annotated[float, Field(gt=0, le=1)] | None
    )  # lr factor per layer towards the input; null: none
    weight_decay: Annotated[float, Field(ge=0)]  # weights only, not norms and biases
    schedule: Literal["cosine", "onecycle", "constant"]
    warmup: Annotated[float, Field(ge=0, lt=1)]  # share of all steps
    min_lr: Annotated[float, Field(ge=0, le=1)]  # share of lr at the end
    clip_grad: Annotated[float, Field(gt=0)] | None  # largest norm of the gradient
    ema: Annotated[float, Field(gt=0, lt=1)] | None  # decay of the averaged weights; null: none
    freeze_epochs: Annotated[int, Field(ge=0)]  # first epochs that train the head alone
    dropout: Annotated[float, Field(ge=0, lt=1)]
    drop_path: Annotated[float, Field(ge=0, lt=1)]
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    channels_last: bool
    compile: bool
    checkpoint_gradients: bool  # less memory for about a third more time
    # Absent in old bundles:
    archive: Literal["none", "pretrain", "mix"] = "none"  # use of the sources of `data.archive`
    archive_epochs: Annotated[int, Field(ge=1)] = 5  # pretrain: epochs of them, before `epochs`
    archive_share: Annotated[float, Field(gt=0, lt=1)] = 0.25  # mix: their share of an epoch
    extra: str | None = None  # folder of labelled tiles that only ever train


class ImageRecipe(ImageTrain):
    """The recipe of one backbone: its own values over the shared ones."""

    model: str  # a name of the catalogue (`isic models`) or of timm
    tta: _Tta  # decides no weight
    validate_negatives: int  # decides no weight

    def training_config(self) -> dict[str, Any]:
        """The values that decide the weights."""
        return self.model_dump(exclude={"tta", "validate_negatives"})

    @property
    def pretraining_epochs(self) -> int:
        """Epochs of other sources' pictures alone, which come first."""
        return self.archive_epochs if self.archive == "pretrain" else 0

    @property
    def all_epochs(self) -> int:
        """Epochs of the whole run."""
        return self.pretraining_epochs + self.epochs

    @property
    def has_train_only(self) -> bool:
        """Whether pictures beside the challenge's train the network."""
        return self.archive != "none" or self.extra is not None

    @property
    def reads_diagnoses(self) -> bool:
        """Whether the diagnosis column shapes the training target."""
        return self.aux_weight > 0 or self.indeterminate > 0


class Image(Section):
    """Image networks: the shared recipe, the backbones, GPUs that share one model, run-time
    settings.
    """

    train: ImageTrain
    backbones: dict[str, dict[str, Any]]
    tta: _Tta | dict[str, _Tta]  # at embedding and prediction; one value, or one by backbone
    validate_negatives: Annotated[
        int, Field(ge=1)
    ]  # sampled for the logged scores of an epoch; decides nothing
    max_hours: (
        Annotated[float, Field(gt=0)] | None
    )  # per training process; the next `dvc repro` resumes
    workers: Annotated[int, Field(ge=0)] | None  # processes that load tiles; null: by machine
    devices: Annotated[
        int, Field(ge=1)
    ]  # GPUs (or CPU processes) that share one model, each with its own batch
    cache_gb: Annotated[float, Field(ge=0)]  # decoded tiles kept on disk; 0: none

    def recipe(self, backbone: str) -> ImageRecipe:
        """The recipe of a backbone; InputError when params.yaml does not name it."""
        if backbone not in self.backbones:
            known = ", ".join(self.backbones)
            raise InputError(
                f"no backbone `{backbone}` in params.yaml: image.backbones has {known}"
            )
        tta = self.tta if isinstance(self.tta, str) else self.tta[backbone]
        return ImageRecipe.model_validate(
            {
                **self.train.model_dump(),
                **self.backbones[backbone],
                "tta": tta,
                "validate_negatives": self.validate_negatives,
            }
        )

    @model_validator(mode="after")
    def _names_are_plain(self) -> Image:
        backbone_of: dict[str, str] = {}
        for name in self.backbones:
            column = name.replace("-", "_")
            if not _BACKBONE.fullmatch(name):
                raise ValueError(
                    f"backbones.{name}: use letters, digits and single - or _ between them in the"
                    " name"
                )
            if column.split("_")[-1] in _TAKEN:
                raise ValueError(
                    f"backbones.{name}: columns of the stacker end in this word; choose another"
                    " name"
                )
            if column in backbone_of:
                raise ValueError(
                    f"backbones.{name} and {backbone_of[column]} would share columns; rename one of"
                    " them"
                )
            backbone_of[column] = name
        return self

    @model_validator(mode="after")
    def _recipes_are_valid(self) -> Image:
        if isinstance(self.tta, dict) and self.tta.keys() != self.backbones.keys():
            raise ValueError(f"tta: give one value, or one for each of {', '.join(self.backbones)}")
        for name, values in self.backbones.items():
            if "tta" in values:
                raise ValueError(
                    f"backbones.{name}: `tta` moved to `image.tta`: one value, or one by backbone"
                )
            if "validate_negatives" in values:
                raise ValueError(
                    f"backbones.{name}: `validate_negatives` moved to `image.validate_negatives`"
                )
            try:
                self.recipe(name)
            except ValidationError as error:
                raise ValueError(f"backbones.{name}: {_first_fault(error)}") from error
        return self


class LightGBMSettings(Section):
    """LightGBM's own parameters, under LightGBM's names."""

    learning_rate: Annotated[float, Field(gt=0)]
    num_leaves: Annotated[int, Field(ge=2)]
    max_depth: Annotated[int, Field(ge=1)]
    min_data_in_leaf: Annotated[int, Field(ge=1)]
    feature_fraction: Annotated[float, Field(gt=0, le=1)]
    feature_fraction_bynode: Annotated[float, Field(gt=0, le=1)]
    bagging_fraction: Annotated[float, Field(gt=0, le=1)]
    bagging_freq: Annotated[int, Field(ge=0)]
    lambda_l1: Annotated[float, Field(ge=0)]
    lambda_l2: Annotated[float, Field(ge=0)]
    scale_pos_weight: Annotated[float, Field(gt=0)]
    max_bin: Annotated[int, Field(ge=2, le=255)]


class ImageColumns(Section):
    """Columns of the stacker from image logits."""

    scale: Literal["standardised", "ranked"]
    noise: Annotated[float, Field(ge=0)]  # sd, added in training to logits of unit sd
    relative: bool  # rank, ratio and height above the mean within the patient
    embeddings: Literal["none", "aligned", "full"]
    components: Annotated[int, Field(ge=1)]  # directions kept by `aligned`


class XGBoostSettings(Section):
    """XGBoost's own parameters, under XGBoost's names."""

    rounds: Annotated[int, Field(ge=1)]
    learning_rate: Annotated[float, Field(gt=0)]
    max_depth: Annotated[int, Field(ge=1)]
    min_child_weight: Annotated[float, Field(ge=0)]
    subsample: Annotated[float, Field(gt=0, le=1)]
    colsample_bytree: Annotated[float, Field(gt=0, le=1)]
    colsample_bynode: Annotated[float, Field(gt=0, le=1)]
    reg_alpha: Annotated[float, Field(ge=0)]
    reg_lambda: Annotated[float, Field(ge=0)]
    scale_pos_weight: Annotated[float, Field(gt=0)]


class CatBoostSettings(Section):
    """CatBoost's own parameters, under CatBoost's names."""

    rounds: Annotated[int, Field(ge=1)]
    learning_rate: Annotated[float, Field(gt=0)]
    depth: Annotated[int, Field(ge=1, le=16)]
    l2_leaf_reg: Annotated[float, Field(ge=0)]
    subsample: Annotated[float, Field(gt=0, le=1)]
    rsm: Annotated[float, Field(gt=0, le=1)]
    random_strength: Annotated[float, Field(ge=0)]
    scale_pos_weight: Annotated[float, Field(gt=0)]


class StackSettings(Section):
    """The gradient-boosted stacker."""

    members: tuple[Literal["lightgbm", "xgboost", "catboost"], ...] = Field(
        strict=False, min_length=1
    )
    blend: Literal["rank", "weights"]
    seeds: Annotated[int, Field(ge=1)]
    negatives: Annotated[int, Field(ge=0)]
    drop: tuple[str, ...] = Field(strict=False)
    #: Families fitted on each chain's training folds, by their names in `isic.tabular.fitted`;
    #: absent in old bundles.
    fitted: tuple[str, ...] = Field((), strict=False)
    #: Every seed trains two more members, for patients with few lesions; absent in old bundles.
    thinned: bool = False
    #: Log-odds of the members that read image columns, or their late combination with those of
    #: members without and the image logit; absent in old bundles.
    combine: Literal["columns", "late"] = "columns"
    rounds: Annotated[int, Field(ge=1)]
    early_stop: (
        Annotated[int, Field(ge=1)] | None
    )  # trees without a better pAUC on a fold kept out of training
    params: LightGBMSettings
    xgboost: XGBoostSettings
    catboost: CatBoostSettings
    images: ImageColumns

    def library(self, name: str) -> dict[str, Any]:
        """{"rounds", "params"} of a member library; LightGBM's are `rounds` and `params`
        themselves.
        """
        if name == "lightgbm":
            return {"rounds": self.rounds, "params": self.params.model_dump(exclude={"max_bin"})}
        chosen = self.xgboost if name == "xgboost" else self.catboost
        return {"rounds": chosen.rounds, "params": chosen.model_dump(exclude={"rounds"})}

    @model_validator(mode="after")
    def _leaves_fit_depth(self) -> StackSettings:
        if self.params.num_leaves > 2**self.params.max_depth:
            most = 2**self.params.max_depth
            raise ValueError(
                f"num_leaves {self.params.num_leaves} has no effect above 2^max_depth = {most}:"
                " lower it"
            )
        return self


class Evaluate(Section):
    """Intervals of the metrics."""

    replicates: Annotated[int, Field(ge=10)]
    seed: _Seed


class Register(Section):
    """Name of the registered model."""

    model: str


class Gate(Section):
    """Conditions of promotion. Differences are challenger minus champion, on the same rows."""

    replicates: Annotated[int, Field(ge=10)]
    seed: _Seed
    min_gain: float  # of pAUC, beyond chance
    # Chance that a first challenger without a gain passes; the k-th one's is divided by k².
    false_promotions: Annotated[float, Field(gt=0, lt=0.5)]
    max_slice_loss: Annotated[float, Field(ge=0)]  # of pAUC in any slice, if beyond chance
    min_slice_positives: Annotated[int, Field(ge=1)]  # malignant lesions that make a slice judged
    max_log_loss_rise: Annotated[float, Field(ge=0)]  # as a share
    max_growth: Annotated[float, Field(gt=0)]  # bundle size, times
    max_slowdown: Annotated[float, Field(gt=0)]  # seconds a lesion, times
    reload_rows: Annotated[int, Field(ge=1)]  # scored again in a fresh process
    reload_tolerance: Annotated[float, Field(gt=0)]


class Params(Section):
    """All of params.yaml."""

    data: Data
    folds: tuple[int, ...] = Field(strict=False)
    split: Split
    features: Features
    image: Image
    stack: StackSettings
    evaluate: Evaluate
    register_: Register = Field(alias="register")
    gate: Gate

    def stack_config(self) -> dict[str, Any]:
        """All values that the out-of-fold scores depend on; equal for runs of one configuration."""
        return self.model_dump(
            mode="json",
            exclude={"evaluate": True, "register_": True, "gate": True, "image": _RUN_TIME},
        )

    def image_config(self, backbone: str) -> dict[str, Any]:
        """All values that the weights of a backbone depend on, as `stack_config` for one image
        network.
        """
        return {
            **self.model_dump(mode="json", include={"data", "folds", "split"}),
            "devices": self.image.devices,
            **self.image.recipe(backbone).training_config(),
        }

    @model_validator(mode="after")
    def _archive_has_sources(self) -> Params:
        for name in self.image.backbones:
            recipe = self.image.recipe(name)
            if recipe.archive != "none" and not self.data.archive:
                raise ValueError(
                    f"image.train.archive is {recipe.archive} for {name}, but data.archive names no"
                    " source: add one, or set it to none"
                )
        return self

    @model_validator(mode="after")
    def _folds_count_from_zero(self) -> Params:
        if len(self.folds) < 2 or self.folds != tuple(range(len(self.folds))):
            raise ValueError(
                f"folds must be [0, 1, …] with at least two of them, not {list(self.folds)}"
            )
        return self


def load_params(path: Path) -> Params:
    """Read and check params.yaml.

    Raises InputError naming the file and the first offending key.
    """
    return check_params(read_yaml(path), str(path))


def check_params(values: Any, where: str) -> Params:
    """Turn plain values into `Params`; `where` names their origin in the error."""
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{where}: {_first_fault(error)}") from error


def _first_fault(error: ValidationError) -> str:
    faults = error.errors(include_url=False)
    # A misspelt key gives two faults, unknown and missing. The unknown one is in the file.
    faults.sort(key=lambda fault: fault["type"] != "extra_forbidden")
    fault = faults[0]
    key = ".".join(str(part) for part in fault["loc"]) or "the file"
    if key in _RENAMED:
        return f"`{key}` is now called `{_RENAMED[key]}`: rename it"
    if key in _REMOVED:
        return f"`{key}` was removed: {_REMOVED[key]}"
    if fault["type"] == "extra_forbidden":
        return f"unknown key `{key}`: check its spelling"
    if fault["type"] == "missing":
        return f"key `{key}` is missing: add it"
    # YAML lists become tuples.
    return (
        f"`{key}`:"
        f" {fault['msg'].removeprefix('Value error, ').replace('valid tuple', 'valid list')}"
    )
