"""Kind 3: requests to the served model."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import pandas as pd

from isic.core.schema import TEXT
from tests.faults.cases_files import _claim, _cut
from tests.faults.harness import Case

Records = list[dict[str, Any]]


def _body(change: Callable[[Records], Any], images: bool = True) -> Callable[[Path], None]:
    """Write request.json: the records of the table after `change`, which may return a whole body."""

    def prepare(folder: Path) -> None:
        frame = pd.read_csv(folder / "m.csv", dtype=dict.fromkeys(TEXT, "str"))
        records = json.loads(frame.to_json(orient="records"))[:6]
        if images:
            with h5py.File(folder / "i.hdf5") as file:
                for record in records:
                    data = bytes(file[record["isic_id"]][()])
                    record["image"] = base64.b64encode(data).decode()
        returned = change(records)
        body = {"dataframe_records": records} if returned is None else returned
        text = body if isinstance(body, str) else json.dumps(body)
        (folder / "request.json").write_text(text)

    return prepare


def _value(column: str, value: Any) -> Callable[[Path], None]:
    return _body(lambda records: records[1].__setitem__(column, value))


def _image(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def edit(records: Records) -> None:
        data = change(base64.b64decode(records[1]["image"]))
        records[1]["image"] = base64.b64encode(data).decode()

    return _body(edit)


def cases() -> Iterator[Case]:
    command = ("request",)
    yield Case(3, "request as it should be", command, _body(lambda records: None), "done")
    yield Case(3, "request without images", command, _body(lambda records: None, False), "done")
    values: dict[str, tuple[Any, ...]] = {
        "age_approx": (-5, 400, True, "old", [40], {"a": 1}),
        "tbp_lv_areaMM2": (-1.0, 0.0, None, True, "1,5", 1e300),
        "tbp_lv_H": (720.0, None, False),
        "tbp_lv_x": (None, "x", True),
        "isic_id": (None, "", 3, "../x", ["a"]),
        "patient_id": (None, "", 3.5),
        "sex": (True, 3, ["male"]),
        "image": ("no base64!", "", 3, True, ["x"], "QUJD", None),
    }
    # MLflow converts to the signature's types before the model sees a request: True is 1.0 then.
    fine = {("image", ""), ("image", None), ("isic_id", "../x")}
    for column, options in values.items():
        for value in options:
            known = isinstance(value, str | None | float | int) and not isinstance(value, bool)
            converted = not known or (column in TEXT and not isinstance(value, str | None))
            yield Case(
                3,
                f"request with {column} {json.dumps(value)}",
                command,
                _value(column, value),
                "either"
                if (column, str(value or "")) in {(a, b or "") for a, b in fine} or converted
                else "refused",
            )
    for name, change in {"cut": _cut(0.5), "of another size": _claim(1.5, 1)}.items():
        yield Case(3, f"request with an image {name}", command, _image(change))
    bodies: dict[str, Any] = {
        "no rows": lambda records: {"dataframe_records": []},
        "a row of nothing": lambda records: {"dataframe_records": [{}]},
        "text": lambda records: "hello",
        "an empty body": lambda records: "",
        "a list": lambda records: "[]",
        "an unknown key": lambda records: {"rows": records},
        "NaN": lambda records: (
            json.dumps({"dataframe_records": records})
            .replace("null", "NaN", 1)
            .replace('"tbp_lv_x": ', '"tbp_lv_x": NaN, "ignored": ', 1)
        ),
        "Infinity": lambda records: json.dumps({"dataframe_records": records}).replace(
            '"tbp_lv_x": ', '"tbp_lv_x": Infinity, "ignored": ', 1
        ),
        "an id twice": lambda records: {"dataframe_records": records + records},
        "100,000 brackets": lambda records: '{"dataframe_records": ' + "[" * 100_000,
        "columns alone": lambda records: {
            "dataframe_split": {"columns": list(records[0]), "data": []}
        },
        "rows of another length": lambda records: {
            "dataframe_split": {"columns": list(records[0]), "data": [[1, 2]]}
        },
        "no target columns": lambda records: {"dataframe_records": [{"isic_id": "a"}]},
    }
    for name, change in bodies.items():
        yield Case(3, f"request with {name}", command, _body(change))
