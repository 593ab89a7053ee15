"""Distances between the lesions of one group, as compiled loops.

Every kernel looks at one group at a time and holds a few rows of its distances, never the square of them: the largest
patient has 9,184 lesions, whose full matrix would take 675 MB. Points come as (dimensions, lesions), so that the inner
loop runs over neighbouring lesions and the compiler vectorises it; plain differences are summed, not expanded squares,
which would lose the small distances of near duplicates.
"""

from __future__ import annotations

import numpy as np
from numba import njit

#: scikit-learn's guard against a zero reachability distance, so that values agree.
_LOF_GUARD = 1e-10


@njit(nogil=True, cache=True, fastmath={"contract", "reassoc"})
def _squared(points, first, last, one, out):  # type: ignore[no-untyped-def]
    """out[j] = squared distance from lesion `one` to lesion first + j; infinite to itself."""
    size = last - first
    for j in range(size):
        out[j] = 0.0
    for dimension in range(points.shape[0]):
        centre = points[dimension, one]
        line = points[dimension, first:last]
        for j in range(size):
            away = line[j] - centre
            out[j] += away * away
    out[one - first] = np.inf


@njit(nogil=True, cache=True)
def nearest(points, first, last, distance, index):  # type: ignore[no-untyped-def]
    """The k nearest others of each lesion of a group, k = distance.shape[1]; nearest first.

    Fills distance and index (position in `points`) for rows first:last; where the group has fewer than k others the
    rest is NaN and -1. Equal distances are taken in canonical order.
    """
    size, wanted = last - first, distance.shape[1]
    squared = np.empty(size)
    best = np.empty(wanted)
    where = np.empty(wanted, dtype=np.int64)
    for one in range(first, last):
        _squared(points, first, last, one, squared)
        found = 0
        limit = np.inf
        for j in range(size):
            # One comparison rejects nearly all; the few that pass are sorted in by insertion.
            if squared[j] < limit:
                place = min(found, wanted - 1)
                while place > 0 and best[place - 1] > squared[j]:
                    best[place], where[place] = best[place - 1], where[place - 1]
                    place -= 1
                best[place], where[place] = squared[j], first + j
                found = min(found + 1, wanted)
                if found == wanted:
                    limit = best[wanted - 1]
        for place in range(wanted):
            distance[one, place] = np.sqrt(best[place]) if place < found else np.nan
            index[one, place] = where[place] if place < found else -1


@njit(nogil=True, cache=True)
def local_outlier_factor(distance, index, first, last, out):  # type: ignore[no-untyped-def]
    """Local outlier factor of a group's lesions from their nearest others (Breunig et al. 2000); 1 below 3 lesions."""
    size = last - first
    if size < 3:
        out[first:last] = 1.0
        return
    wanted = min(distance.shape[1], size - 1)
    density = np.empty(size)
    for one in range(first, last):
        total = 0.0
        for place in range(wanted):
            total += max(distance[one, place], distance[index[one, place], wanted - 1])
        density[one - first] = 1.0 / (total / wanted + _LOF_GUARD)
    for one in range(first, last):
        total = 0.0
        for place in range(wanted):
            total += density[index[one, place] - first]
        out[one] = total / wanted / density[one - first]


@njit(nogil=True, cache=True)
def spread(points, first, last, out, closest, farthest):  # type: ignore[no-untyped-def]
    """Mean, median, sd, min and max of each lesion's distances to its group's others, into out[row, 0:5].

    closest and farthest get the positions of the most and least similar other; a lesion alone gets zeros and itself.
    """
    size = last - first
    squared = np.empty(size)
    others = np.empty(max(size - 1, 1))
    for one in range(first, last):
        out[one] = 0.0
        closest[one] = farthest[one] = one
        if size == 1:
            continue
        _squared(points, first, last, one, squared)
        place, near, far = 0, -1, -1
        for j in range(size):
            if j != one - first:
                others[place] = np.sqrt(squared[j])
                place += 1
                if near < 0 or squared[j] < squared[near]:
                    near = j
                if far < 0 or squared[j] > squared[far]:
                    far = j
        closest[one], farthest[one] = first + near, first + far
        mean = others.mean()
        out[one, 0], out[one, 1], out[one, 2] = mean, np.median(others), np.sqrt(((others - mean) ** 2).mean())
        out[one, 3], out[one, 4] = np.sqrt(squared[near]), np.sqrt(squared[far])


@njit(nogil=True, cache=True)
def dbscan(points, first, last, radius, enough, out):  # type: ignore[no-untyped-def]
    """Size of each lesion's density-connected cluster (Ester et al. 1996) in its group; 1 for noise.

    A lesion with at least `enough` lesions, itself included, within `radius` is a core of its cluster. Each lesion's
    distances are computed once. Lesions at the border of two clusters belong to the one met first.
    """
    size = last - first
    squared = np.empty(size)
    label = np.full(size, -1, dtype=np.int64)
    asked = np.zeros(size, dtype=np.bool_)
    queue = np.empty(size, dtype=np.int64)
    count = np.zeros(size, dtype=np.int64)
    clusters = 0
    for seed in range(size):
        if label[seed] >= 0 or asked[seed]:
            continue
        queue[0], head, tail = seed, 0, 1
        began = False
        while head < tail:
            one = queue[head]
            head += 1
            asked[one] = True
            _squared(points, first, last, first + one, squared)
            squared[one] = 0.0
            if (squared <= radius * radius).sum() < enough:
                continue
            if not began:
                began = True
                label[seed] = clusters
            for other in range(size):
                if squared[other] <= radius * radius and label[other] < 0:
                    label[other] = clusters
                    if not asked[other]:
                        queue[tail] = other
                        tail += 1
        if began:
            clusters += 1
    for one in range(size):
        if label[one] >= 0:
            count[label[one]] += 1
    for one in range(size):
        out[first + one] = count[label[one]] if label[one] >= 0 else 1
