"""`python -m tests.faults.kills CHECKOUT [COUNT]`: end verbs and stages at random moments by SIGKILL,
SIGTERM and SIGINT, repeat them, and compare their results with those of an undisturbed run.

Each job runs in a forked child of this process, which holds the heavy imports, in a session of its
own; what the child started dies with it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.faults import campaign  # sets the environment first
from tests.faults.cases_files import SHARD, predict
from tests.faults.files import make_files, warm_up
from tests.faults.harness import Bases, Case, _call, _make_base, _wait

import numpy as np  # isort: skip

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class Job:
    """A command, where it starts, and the state that it must end in."""

    name: str
    command: Sequence[str]
    base: str
    state: Callable[[Path], str]


def _files(*names: str) -> Callable[[Path], str]:
    def state(folder: Path) -> str:
        from isic.core.io import sha256

        return " ".join(sha256(folder / name) for name in names)

    return state


def _promoted(folder: Path) -> str:
    """The champion, and the promotions without times and ids."""
    from isic.registry.journal import pending_file, read_promotions
    from isic.registry.versions import Registry

    journal = folder / "registry" / "promotions.jsonl"
    moves = [(move.act, move.before, move.after) for move in read_promotions(journal)]
    champion = Registry(folder).find_alias("isic-2024", "champion")
    return f"{champion} {moves} {pending_file(journal).exists()}"


JOBS = (
    Job("predict", predict(), "files", _files("out.csv")),
    Job("shard", (*SHARD, "--rows", "4"), "files", _files("shards")),
    Job("folds", ("stage", "folds"), "checkout", _files("data/folds.parquet")),
    Job("features", ("stage", "features"), "checkout", _files("data/features/train.parquet")),
    Job("stack", ("stage", "stack"), "checkout", _files("models/stack", "data/oof")),
    Job("preset", ("isic", "preset", "full"), "checkout", _files("params.yaml")),
    Job("promote", ("isic", "promote"), "unpromoted", _promoted),
)


def _start(job: Job, bases: Bases, work: Path) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setsid()
        quiet = os.open(work.parent / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        os.chdir(work)
        code = _call(job.command, bases)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    finally:
        os._exit(code)


def _prepared(job: Job, bases: Bases, folder: Path) -> Path:
    folder.mkdir(parents=True)
    work = folder / "w"
    base = "files" if job.base == "files" else "checkout"
    _make_base(Case(9, job.name, job.command, base=base), bases, work)  # type: ignore[arg-type]
    if job.base == "unpromoted":
        import sqlite3

        with sqlite3.connect(work / "mlflow.db") as store:
            store.execute("delete from registered_model_aliases where alias != 'challenger'")
        (work / "registry" / "promotions.jsonl").unlink()
    return work


def _finished(job: Job, bases: Bases, work: Path) -> str:
    """The state after a run to its end; "" when it failed."""
    code = _wait(_start(job, bases, work))
    return job.state(work) if code == 0 else ""


def main() -> None:
    checkout, count = Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else 63
    random = np.random.default_rng(int(time.time()))
    ended: Counter[str] = Counter()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="isic-kills-") as name:
        scratch = Path(name).resolve()
        bases = Bases(make_files(checkout, scratch / "files"), checkout)
        warm_up(bases.files, scratch / "warm.csv")
        expected, seconds = {}, {}
        for job in JOBS:
            work = _prepared(job, bases, scratch / job.name)
            started = time.monotonic()
            expected[job.name] = _finished(job, bases, work)
            seconds[job.name] = time.monotonic() - started
            assert expected[job.name], (work.parent / "output.txt").read_text()[-2000:]
        for number in range(count):
            job, kind = JOBS[number % len(JOBS)], SIGNALS[number // len(JOBS) % 3]
            folder = scratch / f"kill{number}"
            work = _prepared(job, bases, folder)
            child = _start(job, bases, work)
            time.sleep(float(random.uniform(0, seconds[job.name])))
            with suppress(ProcessLookupError):
                # The group: the clean process of a promotion's gate belongs to it.
                os.killpg(child, kind)
            status = _wait(child)
            ended["early" if status == 0 else signal.Signals(kind).name] += 1
            state = _finished(job, bases, work)
            with suppress(Exception):  # a shard folder that was whole already is refused
                state = state or job.state(work)
            left = [path.name for path in work.rglob(".isic-tmp-*")]
            if state != expected[job.name] or left:
                text = (folder / "output.txt").read_text()[-400:]
                wrong.append(f"{job.name} {signal.Signals(kind).name}: {state} {left} {text}")
            shutil.rmtree(folder, ignore_errors=True)
    for line in wrong:
        print(line)
    print(json.dumps({"kills": count, **ended, "differing": len(wrong)}))


if __name__ == "__main__":
    assert campaign.main is not main
    main()
