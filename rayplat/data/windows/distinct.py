"""Distinct values: exact sets, and sketches for counts that may be approximate.

A sketch keeps the hashes below ``2**(64 - level)``, with the lowest level at which at most `SKETCH` are left; the
count is estimated as ``kept * 2**level`` (adaptive sampling: Wegman, analysed by Flajolet, On adaptive sampling, 1990;
the second algorithm of Bar-Yossef et al., Counting distinct elements in a data stream, 2002). Up to `SKETCH` values it
is exact, beyond that its standard error is about 1.2 / sqrt(`SKETCH`) = 2.7 %. It is a function of the set of values
alone, so any way of merging gives the same estimate.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rayplat.data.windows.columns import Floats, Ints, Texts, number_hashes

Hashes = npt.NDArray[np.uint64]

SKETCH = 2048
LEVELS = 53


def value_hashes(values: Floats, texts: Texts | None) -> Hashes:
    """A 64-bit hash of each value (no NaN), the same everywhere."""
    if texts is None:
        return number_hashes(values)
    return texts.hashes()[values.astype(np.int64)]


def unique_in_runs(owner: Ints, values: Floats, runs: int) -> tuple[Ints, Floats]:
    """The distinct values of each run, ascending: offsets ``(runs + 1)`` and values. ``owner`` is each value's run."""
    order = np.lexsort((values, owner))
    owner, values = owner[order], values[order]
    new = np.ones(len(values), np.bool_)
    new[1:] = (owner[1:] != owner[:-1]) | (values[1:] != values[:-1])
    return _offsets(owner[new], runs), values[new]


def sketches(offsets: Ints, hashes: Hashes) -> tuple[Ints, Ints, Ints]:
    """The sketch of each run of distinct ``hashes``: offsets, the kept hashes (ascending, as int64), levels."""
    runs = len(offsets) - 1
    owner = np.repeat(np.arange(runs), np.diff(offsets))
    order = np.lexsort((hashes, owner))
    owner, hashes = owner[order], hashes[order]
    level = np.zeros(runs, np.int64)
    for j in range(1, LEVELS):
        full = np.bincount(owner, minlength=runs) > SKETCH
        if not full.any():
            break
        level[full] = j
        keep = ~full[owner] | at_level(hashes, j)
        owner, hashes = owner[keep], hashes[keep]
    return _offsets(owner, runs), hashes.view(np.int64), level


def at_level(hashes: Hashes, level: int) -> npt.NDArray[np.bool_]:
    """Which hashes are below ``2**(64 - level)``."""
    return hashes >> np.uint64(64 - level) == 0 if level else np.ones(len(hashes), np.bool_)


def _offsets(owner: Ints, runs: int) -> Ints:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(owner, minlength=runs))])
