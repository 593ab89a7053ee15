"""Run bad inputs in forked children of one process that holds the heavy imports: a case costs well
under a second.

A child gets a folder of its own, prepares the fault there, and calls a verb, a stage or a served
model as a shell or a server would. Its output, its exit status and the files it leaves are judged.
"""

from __future__ import annotations

import faulthandler
import importlib
import os
import re
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.pipeline import move_store

#: Seconds after which a case counts as hanging.
LIMIT = 60.0
#: Exit status of a child whose fault could not be prepared.
_UNPREPARED = 99
#: What a checkout of a case leaves out: code comes from the parent, the cache is not read.
_LEFT_OUT = shutil.ignore_patterns("isic", ".dvc", ".git", ".deny", "__pycache__")

Expected = Literal["refused", "done", "either"]


@dataclass(frozen=True)
class Case:
    """One input. `command`: `isic …`, `stage NAME …`, or `request` (see `served`); `prepare` makes
    the fault in the case's folder; `line`: pattern of the error line; `check` returns a fault of
    what was left, or None.
    """

    kind: int
    name: str
    command: Sequence[str]
    prepare: Callable[[Path], Any] = lambda folder: None
    expected: Expected = "refused"
    line: str = ""
    base: Literal["files", "checkout", "empty"] = "files"
    check: Callable[[Path], str | None] = lambda folder: None
    absent: Sequence[str] = ("out.csv",)


@dataclass(frozen=True)
class Result:
    """How a case ended: `fault` is "" or one of the counted faults, with details in `text`."""

    case: Case
    fault: str
    text: str
    seconds: float


@dataclass
class Bases:
    """Folders that cases start from, and the served model."""

    files: Path
    checkout: Path
    model: Any = None
    counts: Counter[str] = field(default_factory=Counter)


def run_cases(cases: Iterable[Case], bases: Bases, scratch: Path) -> list[Result]:
    """Run the cases one after the other; each folder is removed after its case."""
    results = []
    for number, case in enumerate(cases):
        folder = scratch / f"case{number:04d}"
        folder.mkdir(parents=True)
        results.append(_run(case, bases, folder))
        shutil.rmtree(folder, ignore_errors=True)
    return results


def _run(case: Case, bases: Bases, folder: Path) -> Result:
    started = time.monotonic()
    output = folder / "output.txt"
    work = folder / "w"
    child = os.fork()
    if not child:
        _child(case, bases, work, output)
    status = _wait(child)
    seconds = time.monotonic() - started
    text = output.read_text(errors="replace") if output.exists() else ""
    # What the case started, such as another process that holds a lock.
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if status is None:
        return Result(case, "hang", text, seconds)
    fault = _fault(case, status, text, work)
    return Result(case, fault, f"[{status}] {text}", seconds)


def _wait(child: int, limit: float = LIMIT) -> int | None:
    """Exit status of the child, -N for signal N, None after the time limit (it is killed then)."""
    until = time.monotonic() + limit
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _child(case: Case, bases: Bases, work: Path, output: Path) -> None:
    """Never returns."""
    code = _UNPREPARED
    try:
        os.setsid()
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout = open(1, "w", closefd=False, buffering=1)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
        faulthandler.enable(file=sys.stderr)
        _make_base(case, bases, work)
        os.chdir(work)
        case.prepare(work)
        try:
            code = _call(case.command, bases)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:
            traceback.print_exc()
            code = 1
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _make_base(case: Case, bases: Bases, work: Path) -> None:
    if case.base == "empty":
        work.mkdir()
    elif case.base == "files":
        shutil.copytree(bases.files, work)
    else:
        shutil.copytree(bases.checkout, work, ignore=_LEFT_OUT, symlinks=True)
        move_store(work, bases.checkout)


def _call(command: Sequence[str], bases: Bases) -> int:
    from isic.core.errors import run

    name, *arguments = command
    sys.argv = list(command)
    if name == "isic":
        from isic.cli import main

        main()
    elif name == "stage":
        sys.argv = list(arguments)
        run(importlib.import_module(f"pipelines.{arguments[0]}").main)
    elif name == "request":
        return served(bases.model, Path("request.json").read_text())
    else:
        raise AssertionError(f"unknown command {command}")
    return 0


def served(model: Any, body: str) -> int:
    """Send a request to the model as MLflow's scoring server does: 0 for an answer, 2 for a refusal
    of the client's input, 1 for a server error.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.pyfunc.scoring_server import invocations

    schema = model.metadata.get_input_schema()
    try:
        answer = invocations(body, "application/json", model, schema)
    except RecursionError:  # MLflow's own parser; its server answers 500 and lives on
        print("isic: error: nested too deeply")
        return 2
    except MlflowException as error:
        status, text = error.get_http_status_code(), error.message
    else:
        status, text = answer.status, answer.response
    if status == 200:
        print(text)
        return 0
    lines = [line for line in text.splitlines() if line.strip()]
    print(f"isic: error: {lines[0] if lines else status}")
    return 2 if status < 500 else 1


def _fault(case: Case, status: int, text: str, work: Path) -> str:
    if status == _UNPREPARED:
        return "unprepared"
    if status < 0:
        return "abort"
    if "Traceback (most recent call last)" in text or status == 1:
        return "traceback"
    lines = re.findall(r"^isic: error: .*", text, re.MULTILINE)
    usage = "Usage: " in text
    if status == 0 and case.expected == "refused":
        return "wrong success"
    if status == 2 and case.expected == "done":
        return "wrong refusal"
    if status == 2 and len(lines) != 1 and not usage:
        return "no single line"
    if status == 2 and case.line and not usage and not re.search(case.line, lines[0]):
        return "other line"
    if status not in (0, 2):
        return f"status {status}"
    if status == 2:
        for name in case.absent:
            # A target that the case made itself is compared by its own check.
            if (work / name).is_file() and not (work / name).is_symlink():
                return f"left {name}"
    left = [path.name for path in work.rglob(".*.csv*") if path.is_file()]
    if left:
        return f"left {left[0]}"
    return case.check(work) or ""
