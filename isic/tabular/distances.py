"""Distances between the lesions of one group, as compiled loops.

Each kernel works on one group at a time and holds a few rows of its distances, never the full
matrix: the largest patient has 9,184 lesions, whose full matrix would take 675 MB. Points come as
(dimensions, lesions), so that the inner loop runs over neighbouring lesions and the compiler
vectorises it; plain differences are summed, not expanded squares, which would lose the small
distances of near duplicates.
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
def nearest_neighbours(points, first, last, distance, index):  # type: ignore[no-untyped-def]
    """The k nearest others of each lesion of a group, k = distance.shape[1]; nearest first.

    Fills distance and index (position in `points`) for rows first:last; where the group has fewer
    than k others the rest is NaN and -1. Equal distances are taken in canonical order.
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
    """Local outlier factor of a group's lesions from their nearest others (Breunig et al. 2000); 1
    below 3 lesions.
    """
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


@njit(nogil=True, cache=True, fastmath={"contract", "reassoc"})
def distance_statistics(points, first, last, out, closest, farthest):  # type: ignore[no-untyped-def]
    """Mean, median, sd, min and max of each lesion's distances to its group's others, into out[row,
    0:5].

    closest and farthest get the positions of the most and least similar other; a lesion alone gets
    zeros and itself.
    """
    size = last - first
    squared, others = np.empty(size), np.empty(size)
    counts, inside = np.zeros(_BINS, dtype=np.int64), np.empty(size)
    for one in range(first, last):
        out[one] = 0.0
        closest[one] = farthest[one] = one
        if size == 1:
            continue
        _squared(points, first, last, one, squared)
        own = one - first
        for j in range(own):
            others[j] = np.sqrt(squared[j])
        for j in range(own + 1, size):
            others[j - 1] = np.sqrt(squared[j])
        near = np.argmin(squared)
        least = squared[near]
        squared[own] = -1.0
        far = np.argmax(squared)
        total = 0.0
        for j in range(size - 1):
            total += others[j]
        mean = total / (size - 1)
        second = 0.0
        for j in range(size - 1):
            second += (others[j] - mean) ** 2
        sd = np.sqrt(second / (size - 1))
        closest[one], farthest[one] = first + near, first + far
        out[one, 0], out[one, 1], out[one, 2] = (
            mean,
            _median(others[: size - 1], mean, sd, counts, inside),
            sd,
        )
        out[one, 3], out[one, 4] = np.sqrt(least), np.sqrt(squared[far])


#: Parts of the interval in which a median is looked for.
_BINS = 128


@njit(nogil=True, cache=True)
def _median(values, mean, sd, counts, inside):  # type: ignore[no-untyped-def]
    """Median of `values`, which lies within one sd of their mean: count by bins, then sort the
    middle bin alone.

    `counts` (_BINS, zero before and after) and `inside` (as long as `values`) are room to work in.
    """
    size = len(values)
    low = mean - 1.000001 * sd
    scale = _BINS / max(2.000002 * sd, 1e-300)
    below = 0
    for j in range(size):
        place = (values[j] - low) * scale
        if place < 0.0:
            below += 1
        elif place < _BINS:
            counts[int(place)] += 1
    # The middle one, or the two beside the middle.
    lower, upper = (size - 1) // 2, size // 2
    start, end, seen, before = -1, -1, below, below
    for number in range(_BINS):
        seen += counts[number]
        if start < 0:
            if seen > lower:
                start = number
            else:
                before = seen
        if start >= 0 and seen > upper:
            end = number
            break
    counts[:] = 0
    if end < 0 or below > lower:
        # Distances that are all but equal, where the interval is narrower than their rounding.
        return np.median(values)
    found = 0
    for j in range(size):
        place = (values[j] - low) * scale
        if 0.0 <= place < _BINS and start <= int(place) <= end:
            inside[found] = values[j]
            found += 1
    middle = np.sort(inside[:found])
    return (middle[lower - before] + middle[upper - before]) / 2


@njit(nogil=True, cache=True)
def dbscan(points, first, last, radius, enough, out):  # type: ignore[no-untyped-def]
    """Size of each lesion's density-connected cluster (Ester et al. 1996) in its group; 1 for
    noise.

    A lesion with at least `enough` lesions, itself included, within `radius` is a core of its
    cluster. Neighbours are counted until they are enough, and only lesions without a cluster are
    looked at again. Lesions at the border of two clusters belong to the one met first.
    """
    size, limit = last - first, radius * radius
    label = np.full(size, -1, dtype=np.int64)
    asked = np.zeros(size, dtype=np.bool_)
    queue, rest = np.empty(size, dtype=np.int64), np.arange(size)
    left, clusters = size, 0
    for seed in range(size):
        if label[seed] >= 0 or asked[seed]:
            continue
        asked[seed] = True
        if not _is_core(points, first, last, seed, limit, enough):
            continue
        label[seed] = clusters
        queue[0], head, tail = seed, 0, 1
        while head < tail and left > 0:
            one = queue[head]
            head += 1
            if one != seed:
                asked[one] = True
                if not _is_core(points, first, last, one, limit, enough):
                    continue
            kept = 0
            for place in range(left):
                other = rest[place]
                if label[other] >= 0:
                    continue
                if _apart(points, first + one, first + other) <= limit:
                    label[other] = clusters
                    if not asked[other]:
                        queue[tail] = other
                        tail += 1
                else:
                    rest[kept] = other
                    kept += 1
            left = kept
        clusters += 1
    count = np.zeros(max(clusters, 1), dtype=np.int64)
    for one in range(size):
        if label[one] >= 0:
            count[label[one]] += 1
    for one in range(size):
        out[first + one] = count[label[one]] if label[one] >= 0 else 1


@njit(nogil=True, cache=True)
def _apart(points, one, other):  # type: ignore[no-untyped-def]
    """Squared distance of two lesions."""
    total = 0.0
    for dimension in range(points.shape[0]):
        away = points[dimension, one] - points[dimension, other]
        total += away * away
    return total


@njit(nogil=True, cache=True)
def _is_core(points, first, last, one, limit, enough):  # type: ignore[no-untyped-def]
    """Whether at least `enough` lesions of the group, itself included, lie within the squared
    distance.
    """
    found = 0
    for other in range(first, last):
        if _apart(points, first + one, other) <= limit:
            found += 1
            if found >= enough:
                return True
    return False
