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

#: scikit-learn's guard against a zero reachability distance.
_LOF_GUARD = 1e-10


@njit(nogil=True, cache=True, fastmath={"contract", "reassoc"})
def _squared(points, first, last, row, out):  # type: ignore[no-untyped-def]
    """out[j] = squared distance from lesion `row` to lesion first + j; infinite to itself."""
    size = last - first
    for j in range(size):
        out[j] = 0.0
    for dimension in range(points.shape[0]):
        centre = points[dimension, row]
        line = points[dimension, first:last]
        for j in range(size):
            away = line[j] - centre
            out[j] += away * away
    out[row - first] = np.inf


@njit(nogil=True, cache=True)
def nearest_neighbours(points, first, last, distance, index):  # type: ignore[no-untyped-def]
    """The k nearest others of each lesion of a group, k = distance.shape[1]; nearest first.

    Fills distance and index (position in `points`) for rows first:last; where the group has fewer
    than k others the rest is NaN and -1. Ties are in canonical order.
    """
    size, wanted = last - first, distance.shape[1]
    squared = np.empty(size)
    best = np.empty(wanted)
    where = np.empty(wanted, dtype=np.int64)
    for row in range(first, last):
        _squared(points, first, last, row, squared)
        count = 0
        limit = np.inf
        for j in range(size):
            # One comparison rejects nearly all; the few that pass are sorted in by insertion.
            if squared[j] < limit:
                rank = min(count, wanted - 1)
                while rank > 0 and best[rank - 1] > squared[j]:
                    best[rank], where[rank] = best[rank - 1], where[rank - 1]
                    rank -= 1
                best[rank], where[rank] = squared[j], first + j
                count = min(count + 1, wanted)
                if count == wanted:
                    limit = best[wanted - 1]
        for rank in range(wanted):
            distance[row, rank] = np.sqrt(best[rank]) if rank < count else np.nan
            index[row, rank] = where[rank] if rank < count else -1


@njit(nogil=True, cache=True)
def local_outlier_factor(distance, index, first, last, out):  # type: ignore[no-untyped-def]
    """Local outlier factor of a group's lesions from their nearest neighbours (Breunig et al.
    2000); 1 for fewer than 3 lesions.
    """
    size = last - first
    if size < 3:
        out[first:last] = 1.0
        return
    wanted = min(distance.shape[1], size - 1)
    density = np.empty(size)
    for row in range(first, last):
        total = 0.0
        for rank in range(wanted):
            total += max(distance[row, rank], distance[index[row, rank], wanted - 1])
        density[row - first] = 1.0 / (total / wanted + _LOF_GUARD)
    for row in range(first, last):
        total = 0.0
        for rank in range(wanted):
            total += density[index[row, rank] - first]
        out[row] = total / wanted / density[row - first]


@njit(nogil=True, cache=True, fastmath={"contract", "reassoc"})
def distance_statistics(points, first, last, out, closest, farthest):  # type: ignore[no-untyped-def]
    """Mean, median, sd, min and max of each lesion's distances to its group's others, into out[row,
    0:5].

    closest and farthest get the positions of the most and least similar other lesion. A single
    lesion gets zeros and its own position.
    """
    size = last - first
    squared, others = np.empty(size), np.empty(size)
    counts, inside = np.zeros(_BINS, dtype=np.int64), np.empty(size)
    for row in range(first, last):
        out[row] = 0.0
        closest[row] = farthest[row] = row
        if size == 1:
            continue
        _squared(points, first, last, row, squared)
        own = row - first
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
        closest[row], farthest[row] = first + near, first + far
        out[row, 0], out[row, 1], out[row, 2] = (
            mean,
            _median(others[: size - 1], mean, sd, counts, inside),
            sd,
        )
        out[row, 3], out[row, 4] = np.sqrt(least), np.sqrt(squared[far])


#: Bins of the interval in which `_median` searches.
_BINS = 128


@njit(nogil=True, cache=True)
def _median(values, mean, sd, counts, inside):  # type: ignore[no-untyped-def]
    """Median of `values`: it lies within one sd of their mean, so count by bins, then sort the
    middle bin.

    `counts` (_BINS, zero before and after) and `inside` (as long as `values`) are work space.
    """
    size = len(values)
    low = mean - 1.000001 * sd
    scale = _BINS / max(2.000002 * sd, 1e-300)
    below = 0
    for j in range(size):
        position = (values[j] - low) * scale
        if position < 0.0:
            below += 1
        elif position < _BINS:
            counts[int(position)] += 1
    # Indices of the middle value, or of the two middle values.
    lower, upper = (size - 1) // 2, size // 2
    start, end, cumulative, before = -1, -1, below, below
    for bin_index in range(_BINS):
        cumulative += counts[bin_index]
        if start < 0:
            if cumulative > lower:
                start = bin_index
            else:
                before = cumulative
        if start >= 0 and cumulative > upper:
            end = bin_index
            break
    counts[:] = 0
    if end < 0 or below > lower:
        # Nearly equal distances: the interval is narrower than their rounding.
        return np.median(values)
    count = 0
    for j in range(size):
        position = (values[j] - low) * scale
        if 0.0 <= position < _BINS and start <= int(position) <= end:
            inside[count] = values[j]
            count += 1
    middle = np.sort(inside[:count])
    return (middle[lower - before] + middle[upper - before]) / 2


@njit(nogil=True, cache=True)
def dbscan(points, first, last, radius, enough, out):  # type: ignore[no-untyped-def]
    """Size of each lesion's density-connected cluster (Ester et al. 1996) in its group; 1 for
    noise.

    A lesion with at least `enough` lesions, itself included, within `radius` is a core of its
    cluster. Neighbours are counted up to `enough`, and only lesions without a cluster are compared
    again. Lesions at the border of two clusters belong to the one built first.
    """
    size, limit = last - first, radius * radius
    label = np.full(size, -1, dtype=np.int64)
    tested = np.zeros(size, dtype=np.bool_)
    queue, rest = np.empty(size, dtype=np.int64), np.arange(size)
    left, clusters = size, 0
    for seed in range(size):
        if label[seed] >= 0 or tested[seed]:
            continue
        tested[seed] = True
        if not _is_core(points, first, last, seed, limit, enough):
            continue
        label[seed] = clusters
        queue[0], head, tail = seed, 0, 1
        while head < tail and left > 0:
            lesion = queue[head]
            head += 1
            if lesion != seed:
                tested[lesion] = True
                if not _is_core(points, first, last, lesion, limit, enough):
                    continue
            kept = 0
            for slot in range(left):
                other = rest[slot]
                if label[other] >= 0:
                    continue
                if _apart(points, first + lesion, first + other) <= limit:
                    label[other] = clusters
                    if not tested[other]:
                        queue[tail] = other
                        tail += 1
                else:
                    rest[kept] = other
                    kept += 1
            left = kept
        clusters += 1
    count = np.zeros(max(clusters, 1), dtype=np.int64)
    for lesion in range(size):
        if label[lesion] >= 0:
            count[label[lesion]] += 1
    for lesion in range(size):
        out[first + lesion] = count[label[lesion]] if label[lesion] >= 0 else 1


@njit(nogil=True, cache=True)
def _apart(points, row, other):  # type: ignore[no-untyped-def]
    """Squared distance of two lesions."""
    total = 0.0
    for dimension in range(points.shape[0]):
        away = points[dimension, row] - points[dimension, other]
        total += away * away
    return total


@njit(nogil=True, cache=True)
def _is_core(points, first, last, lesion, limit, enough):  # type: ignore[no-untyped-def]
    """Whether at least `enough` lesions of the group, itself included, lie within the squared
    distance.
    """
    count = 0
    for other in range(first, last):
        if _apart(points, first + lesion, other) <= limit:
            count += 1
            if count >= enough:
                return True
    return False
