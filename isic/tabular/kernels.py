"""Statistics of one column within groups, as compiled loops over sorted groups.

pandas' `groupby().transform` passes over the keys again for every column and every statistic. Here
the groups are computed once and each column is read group by group from the processor's cache. The
kernels release the interpreter's lock, so `isic.tabular.parallel` runs columns side by side. NaN is
skipped and stays NaN.
"""

from __future__ import annotations

import numpy as np
from numba import njit

#: Added to divisors that may be 0; the same in every published solution.
EPSILON = 1e-5

#: Columns of `summarise`.
SUMMARY = ("mean", "sd", "min", "max", "sum", "median", "skew", "count")


@njit(nogil=True, cache=True)
def zscore(values, rows, starts, out):  # type: ignore[no-untyped-def]
    """out = (value - mean of group) / (population sd of group + 1e-5), float32; 0 where the group
    is constant.
    """
    for group in range(len(starts) - 1):
        first, last = starts[group], starts[group + 1]
        mean, sd, _ = _moments(values, rows, first, last)
        for index in range(first, last):
            row = rows[index]
            out[row] = (values[row] - mean) / (sd + EPSILON)


@njit(nogil=True, cache=True)
def percentile_rank(values, rows, starts, out):  # type: ignore[no-untyped-def]
    """out = (average rank in the group - 1/2) / its size, float32 in (0, 1), 1/2 in a group of one;
    ties share their mean rank.
    """
    _ranks(values, rows, starts, out, 0.5)


@njit(nogil=True, cache=True)
def upper_rank(values, rows, starts, out):  # type: ignore[no-untyped-def]
    """out = average rank in the group / its size, float32 in (0, 1], 1 in a group of one."""
    _ranks(values, rows, starts, out, 0.0)


@njit(nogil=True, cache=True)
def _ranks(values, rows, starts, out, subtracted):  # type: ignore[no-untyped-def]
    for group in range(len(starts) - 1):
        members = _present(values, rows, starts[group], starts[group + 1], out)
        sorted_rows = members[np.argsort(values[members])]
        size = len(sorted_rows)
        start = 0
        while start < size:
            end = start + 1
            while end < size and values[sorted_rows[end]] == values[sorted_rows[start]]:
                end += 1
            share = ((start + 1 + end) / 2 - subtracted) / size
            for tied in range(start, end):
                out[sorted_rows[tied]] = share
            start = end


@njit(nogil=True, cache=True)
def summarise(values, rows, starts, out):  # type: ignore[no-untyped-def]
    """out[group] = mean, sd, min, max, sum, median, skew, count of the group's present values; NaN
    without any.
    """
    for group in range(len(starts) - 1):
        first, last = starts[group], starts[group + 1]
        mean, sd, skew = _moments(values, rows, first, last)
        present = np.empty(last - first)
        size = 0
        for index in range(first, last):
            value = values[rows[index]]
            if not np.isnan(value):
                present[size] = value
                size += 1
        out[group, 7] = size
        if size == 0:
            out[group, :7] = np.nan
            continue
        present_values = present[:size]
        out[group, 0], out[group, 1] = mean, sd
        out[group, 2], out[group, 3] = present_values.min(), present_values.max()
        out[group, 4], out[group, 5], out[group, 6] = (
            present_values.sum(),
            np.median(present_values),
            skew,
        )


@njit(nogil=True, cache=True)
def _moments(values, rows, first, last):  # type: ignore[no-untyped-def]
    """Mean, population sd and skewness of the present values; sd and skewness 0 for one or equal
    values.
    """
    # Sums are relative to the first present value: equal values then differ from their mean by
    # exactly 0.
    shift, size, total = np.nan, 0, 0.0
    for index in range(first, last):
        value = values[rows[index]]
        if not np.isnan(value):
            if size == 0:
                shift = value
            size += 1
            total += value - shift
    if size == 0:
        return np.nan, np.nan, np.nan
    mean = shift + total / size
    second, third = 0.0, 0.0
    for index in range(first, last):
        value = values[rows[index]]
        if not np.isnan(value):
            away = value - mean
            second += away * away
            third += away * away * away
    sd = np.sqrt(second / size)
    skew = third / size / sd**3 if sd > 1e-9 else 0.0
    return mean, sd, skew


@njit(nogil=True, cache=True)
def _present(values, rows, first, last, out):  # type: ignore[no-untyped-def]
    """Rows of a group whose value is present; `out` of the others becomes NaN."""
    members = np.empty(last - first, dtype=np.int64)
    size = 0
    for index in range(first, last):
        row = rows[index]
        if np.isnan(values[row]):
            out[row] = np.nan
        else:
            members[size] = row
            size += 1
    return members[:size]


@njit(nogil=True, cache=True)
def _extremes(values, rows, first, last):  # type: ignore[no-untyped-def]
    """Smallest and largest present value; NaN without any."""
    low, high = np.nan, np.nan
    for index in range(first, last):
        value = values[rows[index]]
        if not np.isnan(value):
            if not value >= low:
                low = value
            if not value <= high:
                high = value
    return low, high


@njit(nogil=True, cache=True)
def position(values, rows, starts, out):  # type: ignore[no-untyped-def]
    """out = (value - min) / (max - min) of the group, float32; 0 where the group is constant."""
    for group in range(len(starts) - 1):
        low, high = _extremes(values, rows, starts[group], starts[group + 1])
        for index in range(starts[group], starts[group + 1]):
            row = rows[index]
            out[row] = (values[row] - low) / (high - low) if high > low else values[row] - low


@njit(nogil=True, cache=True)
def ratio_to_max(values, rows, starts, out):  # type: ignore[no-untyped-def]
    """out = value / (max of group + 1e-5), float32."""
    for group in range(len(starts) - 1):
        _, high = _extremes(values, rows, starts[group], starts[group + 1])
        for index in range(starts[group], starts[group + 1]):
            row = rows[index]
            out[row] = values[row] / (high + EPSILON)


@njit(nogil=True, cache=True)
def ratio_to_mean(values, rows, starts, out):  # type: ignore[no-untyped-def]
    """out = value / (mean of group + 1e-5), float32."""
    for group in range(len(starts) - 1):
        mean, _, _ = _moments(values, rows, starts[group], starts[group + 1])
        for index in range(starts[group], starts[group + 1]):
            row = rows[index]
            out[row] = values[row] / (mean + EPSILON)


@njit(nogil=True, cache=True)
def from_median(values, rows, starts, out):  # type: ignore[no-untyped-def]
    """out = value - median of group, float32."""
    for group in range(len(starts) - 1):
        members = _present(values, rows, starts[group], starts[group + 1], out)
        if len(members) == 0:
            continue
        middle = np.median(values[members])
        for row in members:
            out[row] = values[row] - middle
