"""`python -m tests.faults.kills CHECKOUT [COUNT] [NAME]`: end verbs and stages (those whose name
holds NAME) at random moments by SIGKILL, SIGTERM and SIGINT, repeat them, and compare their results
with those of an undisturbed run. `processes` in place of NAME: `dvc repro` and searches.

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
from tests.pipeline import move_store

import numpy as np  # isort: skip

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class Job:
    """A command, where it starts, and the state that it must end in."""

    name: str
    command: Sequence[str]
    base: str
    state: Callable[[Path], str]
    limit: float = 300.0


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


def _searched(folder: Path) -> str:
    """How many trials ended, whether some run, and whether params.yaml is readable: which values
    win depends on the order of the workers.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend

    from isic.core.params import load_params

    load_params(folder / "params.yaml")
    journal = JournalFileBackend(str(folder / "optuna" / "journal.log"))
    storage = optuna.storages.JournalStorage(journal)
    (name,) = optuna.get_all_study_names(storage)
    states = [
        trial.state.name for trial in optuna.load_study(study_name=name, storage=storage).trials
    ]
    ended = sum(state in ("COMPLETE", "PRUNED") for state in states)
    return f"{ended >= TRIALS} {'RUNNING' in states}"


#: Trials of a search by two workers.
TRIALS = 4
_WORKER = f"python -m pipelines.tune --trials {TRIALS}"

JOBS = (
    Job("predict", predict(), "files", _files("out.csv")),
    Job("shard", (*SHARD, "--rows", "4"), "files", _files("shards")),
    Job("folds", ("stage", "folds"), "checkout", _files("data/folds.parquet")),
    Job("features", ("stage", "features"), "checkout", _files("data/features/train.parquet")),
    Job("stack", ("stage", "stack"), "checkout", _files("models/stack", "data/oof")),
    Job("preset", ("isic", "preset", "full"), "checkout", _files("params.yaml")),
    Job("promote", ("isic", "promote"), "unpromoted", _promoted),
)


#: Jobs of several processes: `python -m tests.faults.kills CHECKOUT COUNT processes`.
PROCESSES = (
    Job(
        "repro of the networks",
        (
            "sh",
            "-c",
            "sed -i 's/epochs: 8/epochs: 5/' params.yaml && dvc repro train_image@convnext-0",
        ),
        "repository",
        # The history holds the seconds of the epochs.
        _files("models/image/convnext/fold0/model.safetensors"),
        1200.0,
    ),
    Job(
        "tune by two",
        ("sh", "-c", f"{_WORKER} & one=$!; {_WORKER}; two=$?; wait $one && exit $two"),
        "repository",
        _searched,
        1200.0,
    ),
    Job(
        "repro of the stacker",
        ("sh", "-c", "sed -i 's/num_leaves: 12/num_leaves: 9/' params.yaml && dvc repro evaluate"),
        "repository",
        _files("models/stack", "data/oof", "metrics/evaluate.json"),
        1200.0,
    ),
)


def _start(job: Job, bases: Bases, work: Path) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setsid()
        # As from a terminal: what a script starts in the background inherits an ignored SIGINT.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        quiet = os.open(work.parent / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        os.chdir(work)
        if job.base == "repository":
            os.environ["PYTHONPATH"] = str(work)
            os.execvp(job.command[0], job.command)
        code = _call(job.command, bases)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    finally:
        os._exit(code)


def _prepared(job: Job, bases: Bases, folder: Path) -> Path:
    folder.mkdir(parents=True)
    work = folder / "w"
    if job.base == "repository":
        shutil.copytree(bases.checkout, work, symlinks=True)
        move_store(work, bases.checkout)
        return work
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
    code = _wait(_start(job, bases, work), job.limit)
    return job.state(work) if code == 0 else ""


def _wait_for_group(group: int) -> None:
    """Wait until the last process of a killed group is gone: DVC takes the locks of a process that
    the system still lists for those of a running one.
    """
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)


def main() -> None:
    checkout, count = Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else 63
    wanted = sys.argv[3] if len(sys.argv) > 3 else ""
    jobs = PROCESSES if wanted == "processes" else [job for job in JOBS if wanted in job.name]
    random = np.random.default_rng(int(time.time()))
    ended: Counter[str] = Counter()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="isic-kills-") as name:
        scratch = Path(name).resolve()
        bases = Bases(make_files(checkout, scratch / "files"), checkout)
        warm_up(bases.files, scratch / "warm.csv")
        expected, seconds = {}, {}
        for job in jobs:
            work = _prepared(job, bases, scratch / job.name)
            started = time.monotonic()
            expected[job.name] = _finished(job, bases, work)
            seconds[job.name] = time.monotonic() - started
            assert expected[job.name], (work.parent / "output.txt").read_text()[-2000:]
        number = 0
        # A command that ended before its kill counts for nothing.
        while sum(ended.values()) < count and number < 3 * count:
            job, kind = jobs[number % len(jobs)], SIGNALS[number // len(jobs) % 3]
            number += 1
            folder = scratch / f"kill{number}"
            work = _prepared(job, bases, folder)
            child = _start(job, bases, work)
            time.sleep(float(random.uniform(0, seconds[job.name])))
            with suppress(ProcessLookupError):
                # The group: the clean process of a promotion's gate belongs to it.
                os.killpg(child, kind)
            code = _wait(child, job.limit)
            _wait_for_group(child)
            if code != 0:
                ended[f"{job.name} {signal.Signals(kind).name}"] += 1
            else:  # the machine has become faster since
                seconds[job.name] *= 0.8
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
    print(json.dumps({"kills": sum(ended.values()), **ended, "differing": len(wrong)}))


if __name__ == "__main__":
    assert campaign.main is not main
    main()
