"""List the wheels that a GPU machine without a network needs beside torch, timm, h5py, pandas and
OpenCV.

`python benchmarks/gpu_wheels.py` prints one requirement per line, with the versions in
constraints.txt. On a machine with a network, for the Python of the other one:

    python benchmarks/gpu_wheels.py > wheels.txt
    pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 \\
        --platform manylinux2014_x86_64 -d wheels -r wheels.txt

and there: `pip install --no-index --no-deps --target site wheels/*.whl`, with `site` in PYTHONPATH.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

#: Imports of `isic.image` and `benchmarks/image.py`, and their requirements.
WANTED = (
    "albucore",
    "albumentations",
    "annotated-types",
    "pydantic",
    "pydantic-core",
    "simsimd",
    "stringzilla",
    "typing-extensions",
    "typing-inspection",
)


def requirements(constraints: str) -> list[str]:
    """`name==version` of every wanted package. Raises KeyError for one that is not in the
    constraints.
    """
    pinned = dict(
        line.split("==") for line in constraints.splitlines() if re.match(r"[\w.-]+==", line)
    )
    versions = {name.lower().replace("_", "-"): version for name, version in pinned.items()}
    return [f"{name}=={versions[name]}" for name in WANTED]


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    print("\n".join(requirements((Path(__file__).parents[1] / "constraints.txt").read_text())))
