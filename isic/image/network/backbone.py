"""Networks by timm; no other module imports it.

A network is a timm model without its classifier, whose output is the embedding, and a linear head
of our own. So the embedding is the input of the head in every family of networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from isic.core.errors import InputError
from isic.image.network.lean_imports import lean_imports

with lean_imports():
    import timm
    from timm.models import load_state_dict as read_weights

#: Arguments of timm.create_model that read files or fetch weights.
_LOADING = {
    "checkpoint_path",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "cache_dir",
}


def _moderate(value: Any) -> Any:
    """`value`, all of whose numbers are of a network's order; ValueError otherwise: a stored spec
    may ask for more memory than there is.
    """
    if isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            _moderate(part)
    elif isinstance(value, int | float) and not -1e4 <= value <= 1e4:
        raise ValueError(f"{value} is beyond any network's arguments")
    return value


_Level = Annotated[float, Field(ge=-10, le=10)]
_Spread = Annotated[float, Field(ge=1e-3, le=10)]


@dataclass(frozen=True)
class Spec:
    """All that is needed to rebuild a network; stored in config.json beside the recipe."""

    model: str
    model_args: Annotated[dict[str, Any], AfterValidator(_moderate)]
    size: Annotated[int, Field(ge=16, le=1024)]
    mean: tuple[_Level, _Level, _Level]
    std: tuple[_Spread, _Spread, _Spread]
    interpolation: Literal["bilinear", "bicubic", "nearest", "lanczos", "box", "hamming", "random"]
    width: Annotated[int, Field(ge=1, le=1 << 16)]
    groups: Annotated[int, Field(ge=0, le=1 << 12)] = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class LesionNet(nn.Module):
    """timm backbone, dropout, one logit; in training optionally a head for diagnosis groups."""

    def __init__(self, backbone: nn.Module, width: int, dropout: float, groups: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, 1)
        self.groups = nn.Linear(width, groups) if groups else None
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits (n,), group logits (n, groups) or None, of normalised pixels (n, 3, size, size)."""
        embedding = self.dropout(self.backbone(pixels))
        return self._logits(embedding), None if self.groups is None else self.groups(embedding)

    def logits_and_embeddings(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(logits (n,), embeddings (n, width)); call `eval` first to turn dropout off."""
        embedding = self.backbone(pixels)
        return self._logits(self.dropout(embedding)), embedding

    def _logits(self, embedding: Tensor) -> Tensor:
        """Logits in float32 in every number format: in 16 bits they have two or three digits, and
        ties.
        """
        with torch.autocast(embedding.device.type, enabled=False):
            return self.head(embedding.float())[:, 0]


def exists(model: str) -> bool:
    """Whether timm has the network, by its name with or without the tag of its weights."""
    return bool(timm.is_model(model))


def create(
    model: str,
    model_args: Mapping[str, Any],
    size: int | None,
    weights: str,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    groups: int = 0,
) -> tuple[LesionNet, Spec]:
    """A new network by timm name; `weights` is `none`, `hub` or the path of a safetensors or torch
    file.

    Raises InputError for an unknown model, an argument it does not take, or weights that cannot be
    loaded.
    """
    config = _config(model)
    args = dict(model_args)
    size = size or args.get("img_size") or config.input_size[-1]
    if config.fixed_input_size:
        args["img_size"] = size
    if drop_path:
        args["drop_path_rate"] = drop_path
    backbone = _backbone(model, args, weights)
    data = timm.data.resolve_model_data_config(backbone)
    width = _width(backbone, size)
    spec = Spec(
        model,
        args,
        size,
        tuple(data["mean"]),
        tuple(data["std"]),
        data["interpolation"],
        width,
        groups,
    )
    return LesionNet(backbone, width, dropout, groups), spec


def _config(model: str) -> timm.models.PretrainedCfg:
    try:
        config = timm.get_pretrained_cfg(model) if timm.is_model(model) else None
    except RuntimeError:  # a known architecture with an unknown tag behind the dot
        config = None
    if config is None:
        raise InputError(
            f"no image model `{model}`: `isic models` lists the catalogue, timm's own names"
            " work too"
        )
    return config


def recompute(net: LesionNet, model: str) -> None:
    """Gradient checkpointing: keep fewer values for the backward pass and compute the others again.

    Raises InputError for a network without it.
    """
    try:
        net.backbone.set_grad_checkpointing()  # type: ignore[operator]  # missing in torch's stubs
    except (AssertionError, AttributeError) as error:
        raise InputError(
            f"`{model}` has no gradient checkpointing: set checkpoint_gradients to false"
        ) from error


def rebuild(spec: Spec) -> LesionNet:
    """The network of a stored spec with undefined weights, for loading.

    Raises InputError for arguments by which timm downloads or unpickles a file: the spec may come
    from an untrusted source.
    """
    if not timm.is_model(spec.model) or _LOADING & spec.model_args.keys():
        raise InputError(
            f"an image model's config.json has the unsafe or unknown model `{spec.model}` with"
            f" {spec.model_args}: do not use it"
        )
    return LesionNet(_backbone(spec.model, spec.model_args, "none"), spec.width, 0.0, spec.groups)


def _backbone(model: str, args: Mapping[str, Any], weights: str) -> nn.Module:
    try:
        if weights == "none":
            return timm.create_model(model, pretrained=False, num_classes=0, **args)
        if weights == "hub":
            return _from_hub(model, args)
        return _from_file(model, args, Path(weights))
    except TypeError as error:
        raise InputError(
            f"image model `{model}` does not take {dict(args)} ({error}): check model_args"
        ) from error


def _from_hub(model: str, args: Mapping[str, Any]) -> nn.Module:
    # A failed download raises OSError or an exception of the library that downloads.
    try:
        return timm.create_model(model, pretrained=True, num_classes=0, **args)
    except TypeError:
        raise
    except Exception as error:
        raise InputError(
            f"pretrained weights of `{model}` cannot be downloaded ({type(error).__name__}): go"
            " online once, or set image.train.weights to a local safetensors file, or to `none` to"
            " start from random weights"
        ) from error


def _from_file(model: str, args: Mapping[str, Any], path: Path) -> nn.Module:
    if not path.is_file():
        raise InputError(
            f"weights file {path} not found: set image.train.weights to hub, generated, none or an"
            " existing file"
        )
    try:
        stored = read_weights(str(path), weights_only=True)
    except OSError:
        raise
    except Exception as error:  # safetensors, zip and pickle readers raise different exceptions
        raise InputError(
            f"{path} is damaged, or no safetensors file and no state dict of torch.save"
            f" ({type(error).__name__}): name another file"
        ) from error
    state = {key.removeprefix("backbone."): value for key, value in stored.items()}

    with torch.random.fork_rng(devices=[]):
        start = timm.create_model(model, pretrained=False, num_classes=0, **args).state_dict()
    # timm renames the keys of older files and resizes position embeddings.
    try:
        backbone = timm.create_model(
            model,
            pretrained=True,
            num_classes=0,
            pretrained_cfg_overlay={"state_dict": state},
            **args,
        )
    except (RuntimeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path} does not fit `{model}` ({type(error).__name__}): it is of another model"
        ) from error

    # timm also accepts a file that fits in part or not at all. Weights missing from the file equal
    # those of `start`, which was drawn from the same random state.
    now = backbone.state_dict()
    loaded = sum(int((now[name] != start[name]).sum()) for name in now)
    share = loaded / sum(values.numel() for values in now.values())
    if share < 0.9:
        raise InputError(
            f"{path} has {share:.0%} of the weights of `{model}`: it is of another model"
        )
    return backbone


def _width(backbone: nn.Module, size: int) -> int:
    """Width of the embedding, measured: its attribute differs between families."""
    training = backbone.training
    backbone.eval()
    with torch.inference_mode():
        width = backbone(torch.zeros(1, 3, size, size)).shape[1]
    backbone.train(training)
    return int(width)


def parameter_groups(
    net: LesionNet, weight_decay: float, layer_decay: float | None
) -> list[dict[str, Any]]:
    """Optimiser groups with `weight_decay`, `scale` (factor of the learning rate) and `head`
    (whether `head_lr` applies).

    Norms, biases and the exceptions of the model are not decayed. With `layer_decay` the rate falls
    by that factor per layer towards the input.
    """
    groups: list[dict[str, Any]] = []
    exempt: set[str] = getattr(net.backbone, "no_weight_decay", set)()
    if layer_decay is not None:
        # Imported late: timm's optimisers import the compiler of torch.
        from timm.optim import param_groups_layer_decay

        for group in param_groups_layer_decay(
            net.backbone, weight_decay, exempt, layer_decay=layer_decay
        ):
            # timm counts from the backbone's last layer; the head is the layer after it.
            scale = group["lr_scale"] * layer_decay
            decay = group["weight_decay"]
            groups.append(
                {"params": group["params"], "weight_decay": decay, "scale": scale, "head": False}
            )
    else:
        groups += _split(net.backbone, weight_decay, exempt, head=False)
    for head in (net.head, net.groups):
        groups += [] if head is None else _split(head, weight_decay, set(), head=True)
    return [group for group in groups if group["params"]]


def _split(
    module: nn.Module, weight_decay: float, exempt: set[str], head: bool
) -> list[dict[str, Any]]:
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        (kept if parameter.ndim <= 1 or name in exempt else decayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay, "scale": 1.0, "head": head},
        {"params": kept, "weight_decay": 0.0, "scale": 1.0, "head": head},
    ]
