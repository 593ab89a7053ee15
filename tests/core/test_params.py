"""params.yaml: the committed file is valid, and the error of a typo names the key."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from isic.core.errors import InputError
from isic.core.params import Params, check_params, load_params
from isic.core.presets import apply_preset, preset_names, write_overlay


def _committed(root: Path) -> Any:
    return yaml.safe_load((root / "params.yaml").read_text())


def test_sections_and_models_are_the_same_both_ways(root: Path) -> None:
    models = {field.alias or name for name, field in Params.model_fields.items()}
    assert models == set(_committed(root))


@pytest.mark.parametrize(
    "section", ["data", "split", "features", "image", "stack", "evaluate", "register", "gate"]
)
def test_unknown_key_in_a_section_is_named(root: Path, section: str) -> None:
    values = _committed(root)
    values[section]["lerning_rate"] = 1
    with pytest.raises(InputError, match=rf"params\.yaml: unknown key `{section}\.lerning_rate`"):
        check_params(values, "params.yaml")


def test_a_renamed_key_names_the_new_one(root: Path) -> None:
    values = _committed(root)
    values["stack"]["evidence"] = values["stack"].pop("images")
    with pytest.raises(
        InputError, match=r"`stack\.evidence` is now called `stack\.images`: rename it$"
    ):
        check_params(values, "params.yaml")


def test_tta_is_no_part_of_a_recipe_for_training(root: Path) -> None:
    values = _committed(root)
    values["image"]["train"]["tta"] = values["image"].pop("tta")
    with pytest.raises(
        InputError, match=r"`image\.train\.tta` is now called `image\.tta`: rename it$"
    ):
        check_params(values, "params.yaml")
    values = _committed(root)
    values["image"]["backbones"]["vit"]["tta"] = "flips"
    with pytest.raises(InputError, match=r"backbones\.vit: `tta` moved to `image\.tta`"):
        check_params(values, "params.yaml")


def test_the_sample_of_the_logged_scores_is_no_part_of_a_recipe_for_training(root: Path) -> None:
    values = _committed(root)
    values["image"]["train"]["validate_negatives"] = values["image"].pop("validate_negatives")
    renamed = r"`image\.train\.validate_negatives` is now called `image\.validate_negatives`"
    with pytest.raises(InputError, match=renamed):
        check_params(values, "params.yaml")
    values = _committed(root)
    before = check_params(values, "params.yaml")
    values["image"]["validate_negatives"] += 1
    after = check_params(values, "params.yaml")
    assert after.stack_config() == before.stack_config()
    assert after.image_config("vit") == before.image_config("vit")
    values["image"]["backbones"]["vit"]["validate_negatives"] = 5
    with pytest.raises(InputError, match=r"backbones\.vit: `validate_negatives` moved to"):
        check_params(values, "params.yaml")


def test_tta_is_one_value_or_one_by_backbone(root: Path) -> None:
    values = _committed(root)
    values["image"]["tta"] = {"vit": "flips", "convnext": "none"}
    params = check_params(values, "params.yaml")
    assert [params.image.recipe(name).tta for name in ("vit", "convnext")] == ["flips", "none"]
    assert params.image_config("vit") == check_params(_committed(root), "params.yaml").image_config(
        "vit"
    )
    values["image"]["tta"] = {"vit": "flips"}
    with pytest.raises(InputError, match="one for each of vit, convnext"):
        check_params(values, "params.yaml")


def test_unknown_section_missing_section_and_wrong_type_are_named(root: Path) -> None:
    with pytest.raises(InputError, match="unknown key `stak`"):
        check_params(_committed(root) | {"stak": {}}, "params.yaml")
    with pytest.raises(InputError, match="key `gate` is missing"):
        check_params(
            {key: value for key, value in _committed(root).items() if key != "gate"}, "params.yaml"
        )
    values = _committed(root)
    values["data"]["sample"]["lesions"] = "many"
    with pytest.raises(InputError, match=r"`data\.sample\.lesions`"):
        check_params(values, "params.yaml")


@pytest.mark.parametrize("folds", [[0], [1, 2], [0, 2], []])
def test_folds_count_from_zero(root: Path, folds: list[int]) -> None:
    with pytest.raises(InputError, match="folds must be"):
        check_params(_committed(root) | {"folds": folds}, "params.yaml")
    with pytest.raises(InputError, match="`folds`: Input should be a valid list"):
        check_params(_committed(root) | {"folds": 5}, "params.yaml")


def test_folder_source_needs_a_folder(root: Path) -> None:
    values = _committed(root)
    values["data"] |= {"source": "folder", "folder": None}
    with pytest.raises(InputError, match=r"data\.folder is empty"):
        check_params(values, "params.yaml")


def test_missing_and_malformed_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not found"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("data: [")
    with pytest.raises(InputError, match="not valid YAML"):
        load_params(tmp_path / "params.yaml")


def test_a_key_that_is_there_twice_is_not_silently_the_last_one(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text((root / "params.yaml").read_text() + "\nsplit:\n  seed: 99\n")
    with pytest.raises(InputError, match="key `split` is given twice"):
        load_params(path)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["../../x"], "letters, digits"),
        (["a/b"], "letters, digits"),
        ([""], "letters, digits"),
        (["all", "vit"], "end in this word"),
        (["vit", "vit_rank"], "end in this word"),
        (["vit-b", "vit_b"], "would share columns"),
    ],
)
def test_backbone_names_are_folders_and_columns(root: Path, names: list[str], said: str) -> None:
    values = _committed(root)
    recipe = next(iter(values["image"]["backbones"].values()))
    values["image"]["backbones"] = dict.fromkeys(names, recipe)
    with pytest.raises(InputError, match=said):
        check_params(values, "params.yaml")
    values["image"]["backbones"] = dict.fromkeys(["eva02-base_448", "Vit2"], recipe)
    check_params(values, "params.yaml")


@pytest.mark.parametrize("text", ["data: [", "", "- a\n- b\n", "split:\n  seed: 1\n  seed: 2\n"])
def test_a_preset_over_a_broken_file_says_so_and_leaves_it(
    root: Path, tmp_path: Path, text: str
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"params\.yaml"):
        apply_preset(path, root / "pipelines" / "presets", "full")
    assert path.read_text() == text


def test_every_preset_applies_and_keeps_comments(root: Path, tmp_path: Path) -> None:
    names = preset_names(root / "pipelines" / "presets")
    assert {"full", "kaggle_t4"} <= set(names)
    for name in names:
        path = tmp_path / "params.yaml"
        shutil.copy(root / "params.yaml", path)
        diff = apply_preset(path, root / "pipelines" / "presets", name)
        assert "\n+" in diff
        assert path.read_text().startswith("# All parameters of the pipeline.")
        load_params(path)
        assert apply_preset(path, root / "pipelines" / "presets", name) == ""


def test_one_changed_value_is_a_diff_of_one_line(root: Path, tmp_path: Path) -> None:
    shutil.copy(root / "params.yaml", tmp_path / "params.yaml")
    for change, signs in (
        ({"split": {"seed": 99}}, "-+"),
        ({"folds": [0, 1, 2, 3]}, "+"),
        ({"stack": {"drop": ["age"]}}, "-++"),
    ):
        diff = write_overlay(tmp_path / "params.yaml", change).splitlines()
        lines = [line for line in diff if line[0] in "+-" and line[:3] not in ("+++", "---")]
        assert "".join(line[0] for line in lines) == signs


def test_unknown_preset_lists_the_known(root: Path, tmp_path: Path) -> None:
    shutil.copy(root / "params.yaml", tmp_path / "params.yaml")
    with pytest.raises(InputError, match=r"no preset 'ful' .* full"):
        apply_preset(tmp_path / "params.yaml", root / "pipelines" / "presets", "ful")


def test_invalid_overlay_leaves_the_file_alone(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    shutil.copy(root / "params.yaml", path)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"split\.sed"):
        write_overlay(path, {"split": {"sed": 1}})
    assert path.read_bytes() == before


def _leaves(values: dict[str, Any], above: str = "") -> set[str]:
    """Dotted keys of all values; a mapping that replaces a whole one counts as one value."""
    found: set[str] = set()
    for key, value in values.items():
        inner = isinstance(value, dict) and "__replace__" not in value
        found |= _leaves(value, f"{above}{key}.") if inner else {f"{above}{key}"}
    return found


def test_presets_set_the_same_keys_so_none_keeps_what_another_set(
    root: Path, tmp_path: Path
) -> None:
    folder = root / "pipelines" / "presets"
    leaves = {
        name: _leaves(yaml.safe_load((folder / f"{name}.yaml").read_text()))
        for name in preset_names(folder)
    }
    for name, keys in leaves.items():
        assert keys == leaves["full"], (
            f"{name} and full set different keys: {sorted(keys ^ leaves['full'])}"
        )
    texts = []
    for order in (["full"], ["kaggle_t4", "full"]):
        shutil.copy(root / "params.yaml", tmp_path / "params.yaml")
        for name in order:
            apply_preset(tmp_path / "params.yaml", folder, name)
        # A value that was longer moves the comment behind it.
        texts.append(re.sub(" +#", " #", (tmp_path / "params.yaml").read_text()))
    assert texts[0] == texts[1]


def test_what_only_costs_time_makes_no_other_configuration(root: Path) -> None:
    params = check_params(_committed(root), "params.yaml")

    def changed(**values: object) -> Params:
        return params.model_copy(update={"image": params.image.model_copy(update=values)})

    quicker = changed(workers=2, max_hours=8.5, cache_gb=3.0)
    assert quicker.stack_config() == params.stack_config()
    assert quicker.image_config("vit") == params.image_config("vit")
    # Each GPU takes a batch of its own, so that two of them make fewer and larger steps.
    assert changed(devices=2).image_config("vit") != params.image_config("vit")
    assert changed(devices=2).stack_config() != params.stack_config()
