"""One thin main per DVC stage: parse options, read params and inputs, call `isic`, write, log."""

import sys
from importlib.util import find_spec

# `dvc repro` takes the first `python` on PATH, which may be that of another environment.
if sys.version_info < (3, 11) or not all(map(find_spec, ("h5py", "pandas", "pydantic"))):
    sys.stderr.write(
        f"isic: error: {sys.executable} is not the project's Python: run"
        " `source .venv/bin/activate` first, or `make repro`\n"
    )
    sys.exit(2)
