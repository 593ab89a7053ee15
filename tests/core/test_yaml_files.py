"""DVC, people and this project write one params.yaml: each reads what the others wrote."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from isic.core.errors import InputError
from isic.core.params import load_params
from isic.core.presets import apply_preset, preset_names, write_overlay
from isic.core.yaml_files import parse_yaml

#: Overrides as they are typed after `dvc exp run -S`, and the lines that each may change.
OVERRIDES = {
    "stack.params.num_leaves=63": 2,
    "image.train.lr=1e-5": 2,
    "image.train.lr=.5e-3": 2,
    "stack.rounds=1e2": 2,
    "stack.params.lambda_l1=0": 2,
    "image.max_hours=11": 2,
    "image.max_hours=null": 0,
    "image.tta=flips": 2,
    "image.tta={vit: flips, convnext: none}": 4,
    "data.folder=no": 2,
    "data.folder=1e3x": 2,
    "data.folder='a b/#c: d'": 2,
    "folds=[0,1]": 1,
    "folds=[0,1,2,3,4]": 2,
    "features.families=[raw]": 12,
    "stack.drop=[age]": 3,
    "stack.members=[lightgbm,xgboost]": 1,
    "stack.early_stop=30": 2,
    "+image.backbones.vit.lr=1e-4": 1,
    "image.train.model_args={}": 0,
}


@pytest.mark.parametrize(
    "text",
    [
        "1",
        "-7",
        "1e-05",
        "1.0e-5",
        "1E5",
        ".5",
        "1.",
        "+3",
        "010",
        "0o10",
        "0x1F",
        "1_000",
        "true",
        "False",
        "no",
        "yes",
        "on",
        "off",
        "y",
        "~",
        "null",
        "",
        "Null",
        "none",
        "None",
        "1:30",
        "2024-01-02",
        "2024-13-45",
        "'1'",
        '"1e5"',
        "1e",
        "e5",
        ".inf",
        "-.INF",
        "1.2.3",
        "[1, a, 0.5]",
        "{a: 1e-3}",
        "a b",
        "=",
        "0b101x",
        "...",
    ],
)
def test_values_are_what_dvc_takes_them_for(text: str) -> None:
    ruamel = pytest.importorskip("ruamel.yaml")
    document = f"key: {text}\n"
    try:
        theirs = ruamel.YAML(typ="safe", pure=True).load(document)["key"]
    except Exception:  # of no such day, or YAML 1.1's sign for a default: text here
        theirs = text
    if hasattr(theirs, "year"):  # a date: nothing here is one
        theirs = text
    ours = parse_yaml(document, "here")["key"]
    assert (type(ours), ours) == (type(theirs), theirs)


@pytest.mark.parametrize("override", OVERRIDES)
def test_an_override_is_read_and_changes_its_lines_alone(
    root: Path, tmp_path: Path, override: str
) -> None:
    from dvc.utils.hydra import apply_overrides

    path = tmp_path / "params.yaml"
    shutil.copy(root / "params.yaml", path)
    before = path.read_text().splitlines()
    apply_overrides(str(path), [override])
    after = path.read_text().splitlines()
    changed = [line for line in before if line not in after]
    changed += [line for line in after if line not in before]
    assert len(changed) <= OVERRIDES[override], changed
    load_params(path)
    # The ways that the demo's last lines suggest next.
    for name in preset_names(root / "pipelines" / "presets"):
        apply_preset(path, root / "pipelines" / "presets", name)
        load_params(path)
    write_overlay(path, {"stack": {"params": {"num_leaves": 9}, "drop": ["age"]}})
    apply_overrides(str(path), ["split.seed=3"])
    params = load_params(path)
    assert params.stack.params.num_leaves == 9
    assert params.split.seed == 3


def test_the_committed_file_is_as_dvc_writes_it(root: Path, tmp_path: Path) -> None:
    from dvc.utils.hydra import apply_overrides

    path = tmp_path / "params.yaml"
    shutil.copy(root / "params.yaml", path)
    apply_overrides(str(path), ["split.seed=0"])
    assert path.read_text() == (root / "params.yaml").read_text()
    assert write_overlay(path, {"split": {"seed": 0}}) == ""


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_line_ends_are_kept(root: Path, tmp_path: Path, bom: bytes) -> None:
    path = tmp_path / "params.yaml"
    before = (root / "params.yaml").read_bytes().replace(b"\n", b"\r\n")
    path.write_bytes(bom + before)
    diff = write_overlay(path, {"split": {"seed": 5}})
    assert diff.count("\n-") == 1
    assert b"seed: 5\r\n" in path.read_bytes()
    assert path.read_bytes().count(b"\n") == path.read_bytes().count(b"\r\n")
    assert load_params(path).split.seed == 5


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        "a: &a [*a]\n",
        "a: &a {b: *a}\n",
        "[" * 50_000,
        "a: " + "{a: " * 5_000,
        "a: !!python/object/apply:os.system [ls]\n",
        "a: !!timestamp 2024-13-45\n",
        "a: !!int x\n",
        "a: !!float [1]\n",
        "a: !!bool maybe\n",
        "? [a, b]\n: 1\n",
        "? {a: 1}\n: 1\n",
        "a: 1\na: 2\n",
        "a: *missing\n",
        "\t- a\n",
        "a: 'open\n",
        "a: \x01\n",
        "%YAML 9.9\n---\na: 1\n--- b\n",
    ],
)
def test_what_is_no_parameter_file_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    for read in (load_params, lambda path: write_overlay(path, {"split": {"seed": 1}})):
        with pytest.raises(InputError, match=r"params\.yaml") as raised:
            read(path)
        assert "\n" not in str(raised.value)
        assert len(str(raised.value)) < 600
    assert path.read_text() == text


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "1e999", "'0.05'", "true", "[1]", "{}"])
@pytest.mark.parametrize("key", ["learning_rate: 0.05", "num_leaves: 12", "lambda_l1: 0.1"])
def test_a_number_of_another_kind_is_named(
    root: Path, tmp_path: Path, key: str, value: str
) -> None:
    path = tmp_path / "params.yaml"
    name = key.split(":")[0]
    path.write_text(
        (root / "params.yaml").read_text().replace(f"    {key}", f"    {name}: {value}", 1)
    )
    assert yaml.safe_load(path.read_text()) != yaml.safe_load((root / "params.yaml").read_text())
    with pytest.raises(InputError, match=rf"params\.yaml: `stack\.params\.{name}`"):
        load_params(path)
