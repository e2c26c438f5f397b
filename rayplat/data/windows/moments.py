"""The states of events and how they merge: sums, squares, extremes, the last value. Arrays in, arrays out.

Values are ``(columns, events)`` doubles in order of key and time, NaN for nothing (see `columns`); a state's rows are
the columns that keep it, in the order of `Clock.having`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rayplat.data.windows.exact import Floats, Ints, squares, sum_segments
from rayplat.data.windows.plan import Clock

Flags = npt.NDArray[np.bool_]


def of_events(clock: Clock, values: Floats, valid: Flags) -> dict[str, Floats]:
    """The state of each single event; what is missing adds nothing. ``last`` is left to `last_values`."""
    found: dict[str, Floats] = {}
    complete = bool(valid.all())
    for name, nothing in (("sum", 0.0), ("squares", 0.0), ("min", np.inf), ("max", -np.inf)):
        having = clock.having(name)
        if having:
            own = values if len(having) == len(values) else values[list(having)]
            there = valid if len(having) == len(values) else valid[list(having)]
            found[name] = own if complete else np.where(there, own, nothing)
    if "squares" in found:
        found["squares"], found["squares_lo"] = squares(found["squares"])
    return found


def sums(clock: Clock, values: Floats, valid: Flags, counts: Ints) -> dict[str, Floats]:
    """Sums and squares of consecutive runs of ``counts`` events as pairs: ``sum``, ``sum_lo``, ``squares``…"""
    states = of_events(clock, values, valid)
    found: dict[str, Floats] = {}
    for name in ("sum", "squares"):
        if name in states:
            lo = states.get(f"{name}_lo", np.zeros_like(states[name]))
            found[name], found[f"{name}_lo"] = sum_segments(states[name], lo, counts)
    return found


def extremes(clock: Clock, values: Floats, valid: Flags, starts: Ints) -> dict[str, Floats]:
    """Smallest and largest of runs that begin at ``starts``; infinite where there is none."""
    states = of_events(clock, values, valid)
    found: dict[str, Floats] = {}
    if "min" in states:
        found["min"] = np.minimum.reduceat(states["min"], starts, axis=1)
    if "max" in states:
        found["max"] = np.maximum.reduceat(states["max"], starts, axis=1)
    return found


def last_values(values: Floats, same: Flags) -> tuple[Floats, Ints]:
    """For each event, the value of the last moment up to it that has one, and that value's place (-1: none yet).

    ``same`` marks events of the same key and moment as the one before: such a group answers with its largest value.
    Only places at the end of a group are meaningful. Places may lie before the key's first event: the caller compares.
    """
    valid = ~np.isnan(values)
    if same.any():
        heads = np.flatnonzero(~same)
        sizes = np.diff(heads, append=values.shape[1])
        largest = np.fmax.reduceat(values, heads, axis=1)
        values = np.repeat(largest, sizes, axis=1)
        valid = ~np.isnan(values)
    places = np.arange(values.shape[1])
    if valid.all():
        return values, np.broadcast_to(places, values.shape)
    return values, np.maximum.accumulate(np.where(valid, places, -1), axis=1)


def latest_in_runs(values: Floats, place: Ints, starts: Ints) -> Floats:
    """The last value of each run of events (never a run's cut through one moment); NaN where it has none."""
    ends = np.append(starts[1:], values.shape[1]) - 1
    at = place[:, ends]
    found = np.take_along_axis(values, np.maximum(at, 0), axis=1)
    return np.where(at >= starts, found, np.nan)
