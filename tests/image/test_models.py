"""Networks: construction, stored files, and the parts of a recipe."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from isic.core.errors import InputError
from isic.core.io import read_parquet, write_parquet
from isic.core.params import ImageRecipe, load_params
from isic.core.presets import apply_preset
from isic.core.tracker import NullTracker
from isic.data.tiles import TileStore
from isic.image.console import red_flags
from isic.image.network import device as machine
from isic.image.network.artifact import load_model, save_model
from isic.image.network.backbone import create, parameter_groups, rebuild
from isic.image.network.catalogue import CATALOGUE, resolve, table_lines
from isic.image.network.embed import embed, scoring_origin
from isic.image.training.diagnosis import GROUPS, diagnosis_groups
from isic.image.training.loss import blend, mixing, per_tile
from isic.image.training.optimizer import EMA, rate
from isic.image.training.start import starting_weights
from isic.image.training.train import train_fold
from isic.scale import estimate
from tests.image.conftest import ROOT

Recipe = Callable[..., ImageRecipe]


@pytest.fixture(scope="module")
def trained(
    tiles: TileStore, folds: pd.DataFrame, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train_fold(tiles, folds, 0, recipe(epochs=1), folder / "m", folder / "r", NullTracker())
    return folder / "m"


# Networks


def test_training_and_embedding_need_torch_and_timm_and_no_tracker(
    tiles: TileStore, folds: pd.DataFrame, recipe: Recipe, tmp_path: Path
) -> None:
    """A rented GPU machine has torch and timm; imports of its missing packages fail here too."""
    folds.to_csv(tmp_path / "folds.csv", index=False)
    (tmp_path / "recipe.json").write_text(recipe(epochs=1).model_dump_json())
    code = f"""
import sys
absent = "mlflow dvc lightgbm xgboost catboost optuna albumentations lightning_fabric"
absent += " matplotlib numba typer"
for name in absent.split():
    sys.modules[name] = None
import json, pathlib
import pandas as pd
from isic.core.params import ImageRecipe
from isic.core.paths import Layout
from isic.core.presets import apply_preset
from isic.core.tracker import NullTracker
from isic.data.tiles import TileStore
from isic.scale import estimate
from isic.image.network.embed import embed
from isic.image.training.train import train_fold
here = pathlib.Path({str(tmp_path)!r})
recipe = ImageRecipe(**json.loads((here / "recipe.json").read_text()))
folds, tiles = pd.read_csv(here / "folds.csv"), TileStore({str(tiles.path)!r})
train_fold(tiles, folds, 0, recipe, here / "m", here / "r", NullTracker())
print(len(embed(here / "m", tiles, folds["isic_id"].tolist()).logits))
try:
    light = recipe.model_copy(update={{"augment": "light"}})
    train_fold(tiles, folds, 0, light, here / "m", here / "r", NullTracker())
except Exception as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    count, refusal = done.stdout.strip().splitlines()
    assert count == "90", done.stderr
    assert "needs albumentations" in refusal


@pytest.mark.parametrize("name", ["demo_vit", "demo_convnext"])
def test_demo_models_are_real_timm_models_as_the_catalogue_says(name: str) -> None:
    entry = CATALOGUE[name]
    tag, args = resolve(name, {})
    net, spec = create(tag, args, entry.size, "none")
    logits, embedding = net.eval().logits_and_embeddings(torch.zeros(2, 3, entry.size, entry.size))
    assert logits.shape == (2,)
    assert embedding.shape == (2, entry.width) == (2, spec.width)
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(
        entry.parameters_m, abs=0.1
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CATALOGUE if not name.startswith("demo")])
def test_catalogue_entries_exist_in_timm_with_weights(name: str) -> None:
    import timm

    entry = CATALOGUE[name]
    assert timm.models.is_model_pretrained(entry.tag)
    with torch.device("meta"):
        model = timm.create_model(entry.tag, num_classes=0)
    assert model.head_hidden_size == entry.width
    wanted = entry.model_args.get("img_size", timm.get_pretrained_cfg(entry.tag).input_size[-1])
    assert wanted == entry.size


def test_the_presets_eva02_takes_weights_of_448_px_at_224(tmp_path: Path) -> None:
    """One block of it: resampled position embeddings, rotary ones of the 224 px network."""
    import timm

    tag, args = resolve("eva02_base_in1k", {"depth": 1})
    large = timm.create_model(tag, num_classes=0, depth=1)
    assert timm.get_pretrained_cfg(tag).hf_hub_id == f"timm/{tag}"
    state = {name: value.clone() for name, value in large.state_dict().items()}
    height, width = torch.meshgrid(*[(torch.arange(32) + 0.5) / 32] * 2, indexing="ij")
    waves = torch.stack([torch.sin(3 * height + k * width) for k in range(768)], dim=-1)
    state["pos_embed"][0, 1:] = (waves * (torch.arange(768) < 6)).reshape(1024, 768)
    save_file(state, tmp_path / "large.safetensors")
    torch.manual_seed(5)
    net, spec = create(tag, args, None, str(tmp_path / "large.safetensors"))
    assert (spec.size, spec.width) == (224, 768)
    own = net.backbone.state_dict()
    assert torch.equal(own["blocks.0.mlp.fc2.weight"], state["blocks.0.mlp.fc2.weight"])
    height, width = torch.meshgrid(*[(torch.arange(16) + 0.5) / 16] * 2, indexing="ij")
    waves = torch.stack([torch.sin(3 * height + k * width) for k in range(6)], dim=-1)
    inside = own["pos_embed"][0, 1:, :6].reshape(16, 16, 6)[1:-1, 1:-1]
    torch.testing.assert_close(inside, waves[1:-1, 1:-1], atol=0.02, rtol=0)
    mim, _ = create(*resolve("eva02_base", {"depth": 1}), 224, "none")
    torch.testing.assert_close(net.backbone.rope.pos_embed, mim.backbone.rope.pos_embed)
    logits, embedding = net.eval().logits_and_embeddings(torch.zeros(1, 3, 224, 224))
    assert embedding.shape == (1, 768)
    assert torch.isfinite(logits).all()
    again = rebuild(spec)
    again.load_state_dict(net.state_dict())


@pytest.mark.parametrize("preset", ["full", "kaggle_t4"])
def test_the_presets_embeddings_have_the_guides_widths(preset: str) -> None:
    values = yaml.safe_load((ROOT / "pipelines" / "presets" / f"{preset}.yaml").read_text())
    backbones = values["image"]["backbones"]["__replace__"]
    models = {name: recipe["model"] for name, recipe in backbones.items()}
    assert models == {"eva02": "eva02_base_in1k", "convnext": "convnextv2_nano"}
    assert [CATALOGUE[model].width for model in models.values()] == [768, 640]


def test_the_table_names_every_model() -> None:
    text = "\n".join(table_lines())
    assert all(entry.name in text and entry.tag in text for entry in CATALOGUE.values())


@pytest.mark.parametrize(
    ("model", "args", "weights", "words"),
    [
        ("resnet_of_dreams", {}, "none", "isic models"),
        ("test_convnext.no_such_tag", {}, "none", "isic models"),
        ("test_convnext", {"patch_sizes": 3}, "none", "model_args"),
        ("test_convnext", {}, "/no/such/file.safetensors", "not found"),
    ],
)
def test_a_model_that_cannot_be_had_is_one_line(
    model: str, args: dict[str, int], weights: str, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        create(model, args, 32, weights)


def test_hub_weights_offline_say_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code = (
        "from isic.image.network.backbone import create\nfrom isic.core.errors import run\n"
        "run(lambda: create('test_convnext.r160_in1k', {}, 32, 'hub'))"
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("isic: error:")
    assert "image.train.weights" in line
    assert "Traceback" not in done.stderr


def test_weights_of_a_file_are_used_and_foreign_ones_refused(tmp_path: Path) -> None:
    torch.manual_seed(1)
    net, _ = create("test_convnext", {}, 32, "none")
    save_file(dict(net.backbone.state_dict()), tmp_path / "own.safetensors")
    torch.manual_seed(2)
    again, _ = create("test_convnext", {}, 32, "none")
    assert not torch.equal(next(again.backbone.parameters()), next(net.backbone.parameters()))
    again, _ = create("test_convnext", {}, 32, str(tmp_path / "own.safetensors"))
    assert torch.equal(next(again.backbone.parameters()), next(net.backbone.parameters()))
    with pytest.raises(InputError, match="another model"):
        create("test_vit", {"patch_size": 8}, 32, str(tmp_path / "own.safetensors"))
    (tmp_path / "torn.safetensors").write_bytes((tmp_path / "own.safetensors").read_bytes()[:-1000])
    (tmp_path / "words.pth").write_text("not weights")
    for name in ("torn.safetensors", "words.pth"):
        with pytest.raises(InputError, match=f"{name} is damaged, or no safetensors file"):
            create("test_convnext", {}, 32, str(tmp_path / name))


def test_weights_of_another_size_are_fitted_and_a_stored_fold_can_start_another(
    tmp_path: Path,
) -> None:
    """Position embeddings have one size; dropping those that do not fit would start them from
    noise.
    """
    net, _ = create("test_vit", {"patch_size": 8}, 32, "none")
    save_file(dict(net.state_dict()), tmp_path / "fold.safetensors")
    larger, _ = create("test_vit", {"patch_size": 8}, 48, str(tmp_path / "fold.safetensors"))
    small, large = (one.backbone.pos_embed[0, -n:].detach() for one, n in ((net, 16), (larger, 36)))
    corner = large.reshape(6, 6, -1)[0, 0], small.reshape(4, 4, -1)[0, 0]
    assert torch.cosine_similarity(*corner, dim=0) > 0.9


def test_a_file_of_pickled_code_is_refused(tmp_path: Path) -> None:
    torch.save({"backbone.x": Path("code")}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match="is damaged, or no safetensors file"):
        create("test_convnext", {}, 32, str(tmp_path / "evil.pth"))


@pytest.mark.parametrize("model", ["test_efficientnet", "resnet10t"])
def test_any_other_timm_name_trains(
    model: str, tiles: TileStore, folds: pd.DataFrame, recipe: Recipe, tmp_path: Path
) -> None:
    """Networks with batch norms: the averaged weights must include the running statistics."""
    wanted = recipe(epochs=2, model=model, model_args={}, ema=0.9)
    history = train_fold(tiles, folds, 0, wanted, tmp_path / "m", tmp_path / "r", NullTracker())
    assert history[-1]["loss"] < history[0]["loss"]
    assert np.isfinite(embed(tmp_path / "m", tiles, folds["isic_id"].tolist()[:5]).logits).all()


@pytest.mark.parametrize("preset", ["full", "kaggle_t4"])
def test_the_guide_has_the_estimates_of_the_presets(preset: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    apply_preset(tmp_path / "params.yaml", ROOT / "pipelines" / "presets", preset)
    guide = (ROOT / "docs" / "training.md").read_text().split(f"P={preset}`")[1].split("\n\n")[1]
    params = load_params(tmp_path / "params.yaml")
    for line in list(estimate.cost_table(params.image, len(params.folds), None))[1:-2]:
        name, model, size, batch, memory, *times = re.split(
            r"\s{2,}|(?<=\d)\s(?=\d+x)", line.strip()
        )
        row = next(row for row in guide.splitlines() if f"`{name}`" in row)
        wanted = [f"`{model}`", size, batch.replace("x", " x "), f"{memory} GB", *times[-2:]]
        assert all(f"| {cell} |" in row for cell in wanted), (row, wanted)
    hours = estimate.hidden_set_time(params.image, len(params.folds)).split("about ")[1][:5]
    assert f"take about {hours} on two T4" in (ROOT / "docs" / "training.md").read_text()


# Stored folds


def test_a_stored_fold_holds_what_the_contract_names_and_no_pickle(trained: Path) -> None:
    assert {file.name for file in trained.iterdir()} == {
        "model.safetensors",
        "config.json",
        "history.csv",
    }
    config = json.loads((trained / "config.json").read_text())
    assert {"model", "size", "mean", "std", "interpolation", "tta", "recipe"} <= config.keys()
    columns = set(pd.read_csv(trained / "history.csv"))
    assert {
        "epoch",
        "loss",
        "pauc",
        "auc",
        "lr",
        "images_per_second",
        "gpu_memory_gb",
        "data_wait",
    } <= columns


def test_embedding_does_not_depend_on_order_company_or_loaders(
    trained: Path, tiles: TileStore, folds: pd.DataFrame
) -> None:
    ids = folds["isic_id"].tolist()
    whole = embed(trained, tiles, ids)
    back = embed(trained, tiles, ids[::-1], workers=1)
    np.testing.assert_allclose(whole.logits, back.logits[::-1], atol=1e-5)
    one = embed(trained, tiles, ids[7:8])
    assert one.logits[0] == pytest.approx(whole.logits[7], abs=1e-5)
    assert embed(trained, tiles, []).logits.shape == (0,)


def test_a_tile_is_scored_alike_to_the_last_bit_in_any_company(
    trained: Path, tiles: TileStore, folds: pd.DataFrame
) -> None:
    """As for shards of a cluster and the file of one machine, above the number of tiles scored
    unfilled.
    """
    ids = folds["isic_id"].tolist()
    whole = embed(trained, tiles, ids)
    parts = [embed(trained, tiles, some) for some in (ids[:17], ids[17:53], ids[53:])]
    assert np.array_equal(whole.logits, np.concatenate([part.logits for part in parts]))
    assert np.array_equal(whole.embeddings, np.concatenate([part.embeddings for part in parts]))


def test_a_model_names_the_format_of_its_scores_and_one_from_before_is_scored_in_fp32(
    trained: Path, tiles: TileStore, folds: pd.DataFrame, tmp_path: Path
) -> None:
    ids = folds["isic_id"].tolist()[:20]
    usual = embed(trained, tiles, ids)
    shutil.copytree(trained, tmp_path / "m")
    config = json.loads((trained / "config.json").read_text())
    del config["scoring_precision"]
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    assert load_model(tmp_path / "m").precision == "fp32"
    for wanted in ("fp16", "bf16"):
        (tmp_path / "m" / "config.json").write_text(
            json.dumps({**config, "scoring_precision": wanted})
        )
        assert load_model(tmp_path / "m").precision == wanted
        # A CPU scores in fp32, whatever the format of the model.
        if not torch.cuda.is_available():
            assert scoring_origin(load_model(tmp_path / "m")) == {
                "precision": "fp32",
                "device": "CPU",
            }
            assert np.array_equal(embed(tmp_path / "m", tiles, ids).logits, usual.logits)
    (tmp_path / "m" / "config.json").write_text(json.dumps({**config, "scoring_precision": "int8"}))
    with pytest.raises(InputError, match="scoring_precision"):
        load_model(tmp_path / "m")


def test_format_and_device_stay_with_the_logits(
    trained: Path, tiles: TileStore, folds: pd.DataFrame, tmp_path: Path
) -> None:
    scores = embed(trained, tiles, folds["isic_id"].tolist()[:20])
    frame = pd.DataFrame({"isic_id": folds["isic_id"][:20], "logit": scores.logits})
    origin = scoring_origin(load_model(trained))
    write_parquet(tmp_path / "fold.parquet", frame, origin)
    for columns in (None, ["logit"]):
        assert read_parquet(tmp_path / "fold.parquet", columns).attrs == origin
    assert not frame.attrs
    assert set(origin) == {"precision", "device"}


def test_embedding_that_runs_out_of_memory_goes_on_in_smaller_parts(
    trained: Path, tiles: TileStore, folds: pd.DataFrame
) -> None:
    ids = folds["isic_id"].tolist()
    usual, hungry, largest = embed(trained, tiles, ids), load_model(trained), []

    def refuse(_module: object, arguments: tuple[torch.Tensor]) -> None:
        if len(arguments[0]) > 20:
            raise torch.OutOfMemoryError("CUDA out of memory")
        largest.append(len(arguments[0]))

    hungry.net.backbone.register_forward_pre_hook(refuse)
    found = embed(hungry, tiles, ids)
    assert max(largest) == 16
    np.testing.assert_allclose(found.logits, usual.logits, atol=1e-5)
    hungry.net.backbone.register_forward_pre_hook(lambda *_: refuse(None, (torch.empty(99),)))
    with pytest.raises(InputError, match="one tile at a time does not fit"):
        embed(hungry, tiles, ids)


@pytest.mark.parametrize(
    ("capability", "compiled", "runs"),
    [
        ((8, 0), ["sm_75", "sm_80", "sm_90"], True),
        ((8, 6), ["sm_80", "sm_90"], True),
        ((6, 0), ["sm_75", "sm_80"], False),
        ((12, 0), ["sm_90", "compute_90"], True),
        ((12, 0), ["sm_90a"], False),
        ((10, 0), ["sm_100", "sm_120"], True),
        ((7, 0), ["sm_75"], False),
    ],
)
def test_a_gpu_without_kernels_is_known_by_its_capability(
    capability: tuple[int, int], compiled: list[str], runs: bool
) -> None:
    fault = machine.missing_kernels(capability, compiled)
    assert (fault == "") is runs
    assert runs or f"sm_{capability[0]}{capability[1]}" in fault


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a GPU that torch does not see")
def test_a_gpu_that_torch_does_not_see_is_said_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert machine.unseen_gpu(tmp_path) == ""
    (tmp_path / "nvidia0").touch()
    assert "install" in machine.unseen_gpu(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine.unseen_gpu(tmp_path) == ""


def test_test_time_flips_make_the_score_independent_of_mirroring(
    trained: Path, tiles: TileStore, folds: pd.DataFrame, tmp_path: Path
) -> None:
    from isic.image.network.embed import augmented_forward

    pixels = torch.randn(4, 3, 32, 32)
    net = load_model(trained).net
    for axes in ((2,), (3,), (2, 3)):
        one, other = (
            augmented_forward(net, view, "flips")[0] for view in (pixels, pixels.flip(axes))
        )
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(augmented_forward(net, pixels, "none")[0], one, atol=1e-5)


def test_an_embedding_beyond_float16_is_cut_off_and_one_that_is_not_finite_names_its_lesion(
    trained: Path, tiles: TileStore, folds: pd.DataFrame
) -> None:
    ids = folds["isic_id"].tolist()[:3]
    quiet, loud = load_model(trained), load_model(trained)
    # The head's weights compensate: a finite logit from an embedding beyond float16.
    loud.net.backbone.register_forward_hook(lambda _module, _pixels, said: said * 1e6)
    usual, cut = embed(quiet, tiles, ids).embeddings, embed(loud, tiles, ids)
    assert np.isfinite(cut.logits).all()
    assert np.isfinite(cut.embeddings).all()
    assert np.abs(cut.embeddings).max() == np.finfo(np.float16).max
    assert (np.sign(cut.embeddings) == np.sign(usual)).all()
    loud.net.backbone.register_forward_hook(lambda _module, _pixels, said: said * np.inf)
    with pytest.raises(InputError, match=f"no finite score for {ids[0]}"):
        embed(loud, tiles, ids)


@pytest.mark.parametrize("damage", ["missing", "truncated", "foreign"])
def test_a_damaged_fold_is_one_line(trained: Path, tmp_path: Path, damage: str) -> None:
    loaded = load_model(trained)
    save_model(tmp_path / "m", loaded.net, loaded.spec, {"tta": "none"}, [])
    weights = tmp_path / "m" / "model.safetensors"
    if damage == "missing":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    else:
        save_file({"x": torch.zeros(1)}, weights)
    with pytest.raises(InputError):
        load_model(tmp_path / "m")


# Parts of the recipe


def test_bce_and_focal_equal_their_formulas() -> None:
    logits, target = torch.tensor([-2.0, 0.3, 4.0]), torch.tensor([0.0, 1.0, 1.0])
    p = logits.double().sigmoid()
    correct = torch.where(target == 1, p, 1 - p)
    torch.testing.assert_close(
        per_tile(logits, target, "bce", 2.0, 0.0).double(), -correct.log(), atol=1e-6, rtol=0
    )
    focal = -((1 - correct) ** 2) * correct.log()
    torch.testing.assert_close(
        per_tile(logits, target, "focal", 2.0, 0.0).double(), focal, atol=1e-6, rtol=0
    )
    smooth = per_tile(torch.tensor([0.0]), torch.tensor([1.0]), "bce", 0.0, 0.2)
    assert smooth.item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("wanted", [0.0, 0.5, 1.0])
def test_the_gradient_of_focal_loss_is_finite_and_right_where_the_probability_saturates(
    gamma: float, wanted: float
) -> None:
    """Against central differences in float64; at gamma 0 and 1 a target of a half has a corner at
    logit 0.
    """
    points = np.array([-100.0, -20, -3, 0.7, 3, 20, 100])
    logits = torch.tensor(points, dtype=torch.float32, requires_grad=True)
    per_tile(logits, torch.full((7,), wanted), "focal", gamma, 0.0).sum().backward()
    assert logits.grad is not None

    def loss(z: np.ndarray) -> np.ndarray:
        entropy = wanted * np.logaddexp(0, -z) + (1 - wanted) * np.logaddexp(0, z)
        return np.asarray(entropy * np.abs(wanted - np.exp(-np.logaddexp(0, -z))) ** gamma)

    slope = (loss(points + 1e-4) - loss(points - 1e-4)) / 2e-4
    np.testing.assert_allclose(logits.grad.numpy(), slope, atol=1e-5, rtol=1e-4)
    corner = torch.zeros(1, requires_grad=True)
    per_tile(corner, torch.tensor([0.5]), "focal", gamma, 0.0).backward()
    assert corner.grad is not None
    assert torch.isfinite(corner.grad).all()


def test_mixup_blends_pixels_and_targets_alike() -> None:
    target = torch.tensor([0.0, 1.0, 0.0, 1.0])
    pixels = target.view(4, 1, 1, 1).expand(4, 3, 2, 2)
    partners, share = mixing(4, 0.4, np.random.default_rng(0))
    mixed, soft = blend(pixels, partners, share), blend(target, partners, share)
    torch.testing.assert_close(mixed[:, 0, 0, 0], soft)
    assert soft.sum() == pytest.approx(2.0)


@pytest.mark.parametrize("schedule", ["cosine", "onecycle", "constant"])
def test_rate_rises_to_its_peak_and_falls_to_the_floor(schedule: str) -> None:
    shares = [rate(step, 100, schedule, 0.1, 0.01) for step in range(100)]
    assert max(shares) == pytest.approx(1.0)
    assert np.argmax(shares) == 9
    assert shares[0] < 0.2
    assert shares[-1] == pytest.approx(1.0 if schedule == "constant" else 0.01)
    assert shares[:10] == sorted(shares[:10])


def test_norms_and_biases_are_not_decayed_and_early_layers_are_slower() -> None:
    net, _ = create("test_vit", {"patch_size": 8}, 32, "none")
    groups = parameter_groups(net, 0.1, 0.5)
    assert sum(p.numel() for group in groups for p in group["params"]) == sum(
        p.numel() for p in net.parameters()
    )
    assert all(p.ndim > 1 for group in groups if group["weight_decay"] for p in group["params"])
    scale = {id(p): group["scale"] for group in groups for p in group["params"]}
    assert scale[id(net.head.weight)] == 1.0
    first, last = net.backbone.blocks[0].attn.qkv.weight, net.backbone.blocks[-1].attn.qkv.weight
    assert scale[id(first)] < scale[id(last)] < 1.0


def test_average_follows_the_formula_with_warm_up() -> None:
    net, _ = create("test_convnext", {}, 32, "none")
    average = EMA(net, 0.9)
    start = net.head.weight.detach().clone()
    with torch.no_grad():
        net.head.weight.add_(1.0)
    average.update(net, step=1)
    # Decay at step 1 is 2 / 11.
    torch.testing.assert_close(average.net.head.weight, start + 9 / 11)


def test_diagnosis_groups() -> None:
    texts = [
        "Benign",
        None,
        (
            "Malignant::Malignant melanocytic proliferations (Melanoma)::Melanoma in situ::with a"
            " nevus"
        ),
        "Benign::Benign melanocytic proliferations::Nevus::Nevus, NOS, Junctional",
        "Malignant::Malignant adnexal epithelial proliferations - Follicular::Basal cell carcinoma",
    ]
    names = [group[0] for group in GROUPS]
    wanted = [
        -1,
        -1,
        names.index("melanoma"),
        names.index("nevus"),
        names.index("basal cell carcinoma"),
    ]
    assert diagnosis_groups(texts).tolist() == wanted


# Flags of a training run


def row(**override: object) -> dict[str, object]:
    return {
        "epoch": 1,
        "loss": 0.5,
        "pauc": 0.1,
        "auc": 0.8,
        "positive_share": 0.25,
        "data_wait": 0.0,
        "seconds": 60.0,
    } | override


@pytest.mark.parametrize(
    ("history", "flag"),
    [
        ([row(epoch=n, loss=1 / n, pauc=0.03, auc=0.52) for n in range(1, 8)], "pauc_low"),
        ([row(epoch=n, loss=0.7) for n in range(1, 6)], "loss_flat"),
        (
            [row(epoch=n, loss=1 / n, pauc=p) for n, p in enumerate((0.15, 0.1, 0.11, 0.1), 1)],
            "validation_falling",
        ),
        ([row(positive_share=0.5)], "share_off"),
        ([row(data_wait=0.3)], "data_wait"),
    ],
)
def test_red_flags(history: list[dict[str, object]], flag: str) -> None:
    assert list(red_flags(history, 0.25)) == [flag]


def test_a_healthy_run_raises_no_flag() -> None:
    assert not red_flags([row(epoch=n, loss=1 / n, pauc=0.1 + n / 200) for n in range(1, 9)], 0.25)
    # The demo: few malignant lesions, one validation in five epochs, epochs of a fraction of a second.
    scores = {5: (0.020, 0.53), 10: (0.0125, 0.66), 15: (0.03, 0.68), 20: (0.046, 0.73)}
    demo = [
        row(epoch=n, loss=1 / n, pauc=pauc, auc=auc, data_wait=0.24, seconds=0.15)
        for n in range(1, 21)
        for pauc, auc in [scores.get(n, (None, None))]
    ]
    assert not any(red_flags(demo[:n], 0.25) for n in range(1, 21))


@pytest.mark.parametrize("name", ["demo_vit", "demo_convnext"])
def test_generated_weights_start_the_demos_networks(name: str) -> None:
    file = Path(starting_weights(name, "generated"))
    assert file.stat().st_size < 1_000_000
    entry = CATALOGUE[name]
    net, _ = create(entry.tag, entry.model_args, entry.size, str(file))
    state, stored = net.backbone.state_dict(), load_file(file)
    assert state.keys() == stored.keys()
    assert all(value.dtype == torch.float16 for value in stored.values())
    assert all(torch.equal(state[key], value.float()) for key, value in stored.items())
    assert all(bool(value.isfinite().all()) for value in stored.values())


def test_generated_weights_of_another_network_name_those_that_exist() -> None:
    with pytest.raises(InputError, match="exists for demo_convnext, demo_vit only, not for `resne"):
        starting_weights("resnet10t", "generated")
