"""A file system for tests: local files under `faulty://`, with the faults of a control file.

FAULTY_CONTROL in the folder above the files: one fault a line. `every N`: each process's every Nth
opening fails, as object storage does under load. `kill NAME`: opening that file ends the process as
the kernel does when memory runs out. `slow SECONDS`: each reading of a whole file takes so long,
during which there is a file FAULTY_READING_<process>.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

_opened = 0


class Faulty(LocalFileSystem):  # type: ignore[misc]
    """See above."""

    protocol = "faulty"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(str(path).removeprefix("faulty://")))

    def open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        global _opened
        _opened += 1
        name = Path(self._strip_protocol(path))
        for line in _control(name):
            word, _, value = line.partition(" ")
            if word == "every" and _opened % int(value) == 0:
                with (name.parent.parent / "FAULTY_HAPPENED").open("a") as happened:
                    happened.write(f"{name.name}\n")
                raise OSError(f"503 Slow Down: {name.name}")
            if word == "kill" and name.name == value and mode == "rb" and not _reads_names():
                os.kill(os.getpid(), signal.SIGKILL)
            if word == "slow" and mode == "rb":
                reading = name.parent.parent / f"FAULTY_READING_{os.getpid()}"
                reading.touch()
                time.sleep(float(value))
                reading.unlink()
        return super().open(path, mode, **kwargs)


def _control(name: Path) -> list[str]:
    file = name.parent.parent / "FAULTY_CONTROL"
    return file.read_text().splitlines() if file.is_file() else []


def _reads_names() -> bool:
    """Whether the uniqueness check is reading, which reads two columns only."""
    import inspect

    return any(frame.function == "hashes_of" for frame in inspect.stack())
