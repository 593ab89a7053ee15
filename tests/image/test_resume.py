"""The shipped recipes, stopped and resumed: the state restores the same weights."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from isic.core.params import ImageRecipe
from isic.core.tracker import NullTracker
from isic.data.tiles import TileStore
from isic.image.training import checkpoint
from isic.image.training import run as runs
from isic.image.training.optimizer import make_optimiser
from isic.image.training.train import Limits, OutOfTime, train_fold
from tests.image.conftest import preset_recipe

Recipe = Callable[..., ImageRecipe]

#: Kinds of state to restore besides the weights.
KINDS: dict[str, dict[str, object]] = {
    "ema": {"ema": 0.9},
    "mixup": {"mixup": 0.4},
    "accumulate": {"accumulate": 2},
    "layer decay": {"layer_decay": 0.8},
}


@pytest.fixture(params=[True, False], ids=["fused", "not fused"])
def fused(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimiser of a GPU or of a CPU, on any machine."""
    chosen = functools.partial(_optimiser, request.param)
    monkeypatch.setattr(runs, "make_optimiser", chosen)


def _optimiser(chosen: bool, *arguments: object, fused: bool) -> torch.optim.AdamW:
    return make_optimiser(*arguments, fused=chosen)  # type: ignore[arg-type]


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Some GPU kernels sum in a different order every time."""
    before = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = before


def pieces(
    tiles: TileStore, folds: pd.DataFrame, recipe: ImageRecipe, folder: Path
) -> tuple[Path, int]:
    """Train with a stop after every step; returns the model's folder and the number of stops."""
    stops = 0
    while True:
        try:
            limits = Limits(max_hours=1e-9, workers=0)
            train_fold(
                tiles, folds, 0, recipe, folder / "parts", folder / "r", NullTracker(), limits
            )
            return folder / "parts", stops
        except OutOfTime:
            stops += 1


def assert_resumes(
    tiles: TileStore, folds: pd.DataFrame, recipe: ImageRecipe, folder: Path
) -> None:
    train_fold(
        tiles, folds, 0, recipe, folder / "whole", folder / "r0", NullTracker(), Limits(workers=0)
    )
    parts, stops = pieces(tiles, folds, recipe, folder)
    assert stops >= 3
    one, other = (load_file(path / "model.safetensors") for path in (folder / "whole", parts))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.usefixtures("fused", "deterministic")
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_ends_with_the_same_weights(
    tiles: TileStore,
    folds: pd.DataFrame,
    recipe: Recipe,
    tmp_path: Path,
    kind: str,
    channels_last: bool,
) -> None:
    """Convolutions, whose weights have another memory layout with channels last."""
    wanted = recipe(epochs=2, batch_size=4, channels_last=channels_last, **KINDS[kind])
    assert_resumes(tiles, folds, wanted, tmp_path)


@pytest.mark.usefixtures("fused", "deterministic")
@pytest.mark.parametrize(
    ("preset", "backbone"),
    [
        ("full", "convnext"),
        ("kaggle_t4", "eva02"),
        pytest.param("full", "eva02", marks=pytest.mark.slow),
        pytest.param("kaggle_t4", "convnext", marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_of_a_preset_ends_with_the_same_weights(
    tiles: TileStore, folds: pd.DataFrame, tmp_path: Path, preset: str, backbone: str
) -> None:
    """The preset's own recipe, on a small network of the same family."""
    assert_resumes(tiles, folds, preset_recipe(preset, backbone), tmp_path)


def test_moments_are_there_before_the_first_step_in_the_order_of_their_parameters(
    recipe: Recipe, folds: pd.DataFrame
) -> None:
    """They equal those of AdamW: the same weights after some steps."""
    wanted = recipe(channels_last=True)
    run = runs.prepare(folds["target"].to_numpy(), wanted, 0)
    for parameter, state in run.optimiser.state.items():
        assert state["exp_avg"].stride() == state["exp_avg_sq"].stride() == parameter.stride()
    plain = runs.prepare(folds["target"].to_numpy(), wanted, 0)
    plain.optimiser.state.clear()
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(run.device)
    for one in (run, plain):
        one.net.eval()
        for _ in range(3):
            one.optimiser.zero_grad()
            one.net(pixels)[0].square().sum().backward()
            one.optimiser.step()
    ours, theirs = run.net.state_dict(), plain.net.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    "progress",
    [
        "null",
        "[" * 100_000,
        '{"epoch": -1}',
        '{"epoch": "1"}',
        '{"epoch": true}',
        '{"chunks": 0}',
        '{"seconds": NaN}',
        '{"history": 3}',
    ],
)
def test_a_state_of_other_values_is_none(tmp_path: Path, progress: str) -> None:
    from safetensors.torch import save_file

    file = tmp_path / "state.safetensors"
    save_file({"net.a": torch.zeros(1)}, file, metadata={"progress": progress})
    assert checkpoint.load(tmp_path) is None
    save_file({"net.a": torch.zeros(1)}, file, metadata={"progress": '{"epoch": 1}'})
    assert checkpoint.load(tmp_path) is not None
