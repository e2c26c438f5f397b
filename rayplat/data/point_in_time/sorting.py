"""Sorting and searching of places, one integer for a key and a time, as fast as numpy's plain sort.

Sorting values is several times faster than finding the order that sorts them. So the row number is packed below
the value, cut to fit into 64 bits, and the few rows that the cut left out of order are put right afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rayplat.data.point_in_time.times import Ints

_FEW = 4096


def sort(placed: Ints, ties: Sequence[Ints] = ()) -> tuple[Ints, Ints]:
    """(order, placed in that order): rows by place (not negative), then by each of ``ties``, then by row number."""
    order, cut = _rough(placed)
    sorted_ = placed[order]
    if cut:
        out = np.flatnonzero(sorted_[1:] < sorted_[:-1])
        if len(out):
            _mend(order, sorted_, out, cut)
    if ties:
        same = sorted_[1:] == sorted_[:-1]
        if same.any():
            tied = np.zeros(len(sorted_), np.bool_)
            tied[1:] = same
            tied[:-1] |= same
            rows = np.flatnonzero(tied)
            columns = [tie[order[rows]] for tie in reversed(ties)]
            order[rows] = order[rows][np.lexsort((*columns, sorted_[rows]))]
    return order, sorted_


def search(sorted_: Ints, wanted: Ints) -> Ints:
    """For each wanted place the last position in ``sorted_`` that is not above it; -1 where there is none. Many are
    looked up in order: neighbours then find their way in the processor's cache."""
    if len(wanted) <= _FEW:
        return np.searchsorted(sorted_, wanted, side="right") - 1
    order, _ = _rough(np.maximum(wanted, 0))
    found = np.empty(len(wanted), np.int64)
    found[order] = np.searchsorted(sorted_, wanted[order], side="right") - 1
    return found


def last_between(values: Ints, low: Ints, high: Ints, limit: Ints) -> Ints:
    """The last position in [low, high) whose value is not above the limit, or low - 1; ``values`` ascend within each
    such range."""
    low, high = low.copy(), high.copy()
    while (going := low < high).any():
        middle = (low + high) >> 1
        holds = going & (values[middle] <= limit)
        low = np.where(holds, middle + 1, low)
        high = np.where(going & ~holds, middle, high)
    return low - 1


def _rough(placed: Ints) -> tuple[Ints, int]:
    """An order that sorts ``placed`` but for its lowest bits, and how many bits those are."""
    rows = len(placed)
    if rows == 0:
        return np.zeros(0, np.int64), 0
    bits = (rows - 1).bit_length()
    cut = max(0, int(placed.max()).bit_length() + bits - 63)
    packed = placed >> cut
    packed <<= bits
    packed |= np.arange(rows)
    packed.sort()
    packed &= (1 << bits) - 1
    return packed, cut


def _mend(order: Ints, sorted_: Ints, out: Ints, cut: int) -> None:
    """Sort, in place, the groups of equal upper bits that hold a row out of order."""
    upper = sorted_ >> cut
    broken = np.unique(upper[out])
    first = np.searchsorted(upper, broken, side="left")
    size = np.searchsorted(upper, broken, side="right") - first
    rows = np.arange(int(size.sum())) + np.repeat(first - np.cumsum(size) + size, size)
    right = np.argsort(sorted_[rows], kind="stable")
    order[rows], sorted_[rows] = order[rows][right], sorted_[rows][right]


@dataclass(frozen=True)
class LastAtMost:
    """Finds the last position of a range whose value is not above a limit, in O(log n) for all ranges at once.

    ``least[k][i]`` is the least of the 2^k values from i * 2^k on.
    """

    least: tuple[Ints, ...]

    def find(self, low: Ints, high: Ints, limit: Ints) -> Ints:
        """The last position in [low, high) with a value <= limit; -1 where there is none.

        A search goes left from ``high`` in blocks that double until one holds a value, then down in that block.
        """
        end, level = high.copy(), np.zeros(len(high), np.int64)
        found = np.full(len(high), -1, np.int64)
        going = np.flatnonzero(low < high)
        while len(going):
            levels = level[going]
            blocks = (end[going] - 1) >> levels
            holds = self._at(levels, blocks) <= limit[going]
            down = holds & (levels > 0)
            done = going[holds & (levels == 0)]
            found[done] = end[done] - 1
            level[going[down]] -= 1
            end[going] = np.where(holds, end[going], blocks << levels)
            climbs = ~holds & self._may_climb(end[going], levels)
            level[going[climbs]] += 1
            going = going[(end[going] > low[going]) & (found[going] < 0)]
        return np.where(found >= low, found, -1)

    def _may_climb(self, end: Ints, level: Ints) -> npt.NDArray[np.bool_]:
        """Whether the next larger block ends where this one ended."""
        climbs: npt.NDArray[np.bool_] = ((end >> level) % 2 == 0) & (level + 1 < len(self.least)) & (end > 0)
        return climbs

    def _at(self, level: Ints, block: Ints) -> Ints:
        values = np.empty(len(level), np.int64)
        for k in np.unique(level):
            rows = level == k
            values[rows] = self.least[k][block[rows]]
        return values


def last_at_most(values: Ints) -> LastAtMost:
    """`LastAtMost` over ``values``: twice their memory."""
    levels = [values]
    while len(levels[-1]) > 1:
        below = levels[-1]
        pairs = np.minimum(below[: len(below) // 2 * 2 : 2], below[1::2])
        levels.append(np.append(pairs, below[-1]) if len(below) % 2 else pairs)
    return LastAtMost(tuple(levels))
