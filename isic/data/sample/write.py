"""The five official files of a generated data set, streamed: memory does not grow with the number
of tiles.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

import cv2
import h5py
import numpy as np
import pandas as pd

from isic.core.io import atomic_file, atomic_files, write_csv
from isic.core.parallel import cores
from isic.data.sample.looks import draw_looks
from isic.data.sample.patients import check_request
from isic.data.sample.population import Population, population
from isic.data.sample.rows import Sample, draw_rows, draw_rows_of, test_rows
from isic.data.sample.tile import encode, render
from isic.data.tile_file import check_room, put_tile

#: Tiles per piece of work. Each piece has its own random stream, so the result does not depend on
#: the processes.
_PIECE = 256
#: The official placeholder of the test set: three rows of three one-lesion patients, one from a
#: hospital that no training row comes from.
_TEST_IDS = ("ISIC_0015657", "ISIC_0015729", "ISIC_0015740")
_TEST_HOSPITAL = ("FNQH Cairns", "CC-BY")


def write_sample(
    out: Path,
    patients: int,
    lesions: int,
    positives: int,
    seed: int,
    images: bool = True,
    processes: int | None = None,
    population_file: Path | None = None,
) -> None:
    """Write train-metadata.csv, test-metadata.csv, sample_submission.csv and, with `images`, the
    two HDF5 files.

    The same arguments give the same rows and tiles, whatever the number of `processes` (default:
    the usable cores, at most 8). `population_file` has the form of the shipped `population.json`,
    which is the default. All files appear together at the end. Raises InputError for impossible
    requests and for a population file of another form.
    """
    check_request(patients, lesions, positives, seed)
    facts = population(population_file)
    train, test = draw_rows(facts, seed, patients, lesions, positives), _test_sample(facts, seed)
    with atomic_files(Path(out)) as folder:
        write_csv(folder / "train-metadata.csv", train.frame)
        write_csv(folder / "test-metadata.csv", test_rows(test))
        write_csv(
            folder / "sample_submission.csv",
            pd.DataFrame({"isic_id": test.frame["isic_id"], "target": 0.3}),
        )
        if images:
            processes = processes or min(cores(), 8)
            write_tiles(folder / "train-image.hdf5", facts, train, (seed, 1), processes)
            write_tiles(folder / "test-image.hdf5", facts, test, (seed, 2), 1)


def _test_sample(facts: Population, seed: int) -> Sample:
    rng, code_rng = (
        np.random.default_rng(part) for part in np.random.SeedSequence((seed, 3)).spawn(2)
    )
    people = pd.DataFrame(
        {
            "patient_id": [f"IP_{number:07d}" for number in rng.choice(15_999, 3, replace=False)],
            # Memorial Sloan Kettering, Frazer, and the patient that moves to the unseen hospital
            # below.
            "hospital": [0, 3, 3],
            "lesions": 1,
            "malignant": 0,
            "white": [True, False, False],
            "sex": ["male", "female", "male"],
            "age": rng.uniform(40, 80, 3),
            "age_missing": False,
            "visits": 0.0,
        }
    )
    sample = draw_rows_of(facts, rng, code_rng, people)
    frame = sample.frame.assign(isic_id=list(_TEST_IDS))
    moved = sample.owner == 2
    frame.loc[moved, ["attribution", "copyright_license"]] = _TEST_HOSPITAL
    return Sample(frame, sample.owner, sample.visibility)


def write_tiles(
    path: Path, facts: Population, sample: Sample, seed: Sequence[int], processes: int
) -> None:
    """One scalar `|S<n>` dataset of JPEG bytes per isic_id, in row order."""
    entropy = [part % 2**64 for part in seed]
    looks = draw_looks(facts, np.random.default_rng(entropy), sample)
    names = sample.frame["isic_id"].to_list()
    pieces = [
        (index, looks[start : start + _PIECE])
        for index, start in enumerate(range(0, len(looks), _PIECE))
    ]
    with atomic_file(path) as temporary, h5py.File(temporary, "w") as file:
        position = 0
        for tiles in _rendered(pieces, entropy, processes):
            check_room(path)
            for tile in tiles:
                put_tile(file, names[position], tile)
                position += 1


def _rendered(
    pieces: list[tuple[int, np.ndarray]], seed: list[int], processes: int
) -> Iterator[list[bytes]]:
    """JPEGs of each piece in order, rendered here or in `processes` others, few pieces ahead of the
    writer.
    """
    if processes < 2 or len(pieces) < 2:
        for index, looks in pieces:
            yield _render_piece(index, looks, seed)
        return
    # fork: starts at once and works from a script on standard input; children only draw, they touch
    # no open file.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    pool = ProcessPoolExecutor(processes, mp_context=context)
    try:
        ahead: deque[Future[list[bytes]]] = deque()
        for index, looks in pieces:
            ahead.append(pool.submit(_render_piece, index, looks, seed))
            if len(ahead) > 3 * processes:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        # What nobody waits for any more after a fault is not rendered first.
        pool.shutdown(cancel_futures=True)


def _render_piece(index: int, looks: np.ndarray, seed: list[int]) -> list[bytes]:
    threads = cv2.getNumThreads()
    # Not 1: that ends OpenCV's threads and waits for those of the parent, which a fork leaves out.
    cv2.setNumThreads(0)
    try:
        rng = np.random.default_rng([*seed, 1 + index])
        return [encode(render(rng, look)) for look in looks]
    finally:
        cv2.setNumThreads(threads)
