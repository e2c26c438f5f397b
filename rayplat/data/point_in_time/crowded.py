"""A partition that holds far more rows than the others, because of one key: cut by time, so that no task holds it.

Each range of time gets the spine's rows of that range and the feature rows that can matter there: its own, and what is
carried over from all before it. For a kernel that carries nothing, all rows within its reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rayplat.data.point_in_time import tasks
from rayplat.data.point_in_time.exchange import Carrying, Step
from rayplat.data.point_in_time.flow import Flow

if TYPE_CHECKING:
    import pyarrow as pa
    from ray import ObjectRef

    Ref = ObjectRef[pa.Table]


@dataclass
class Partition:
    """What one task answers: pieces of the spine with the block each is from, and the pieces of each step."""

    spine: list[tuple[int, Ref]]
    features: list[list[Ref]]


def by_time(
    flow: Flow, whole: Partition, steps: Sequence[Step], bounds: Sequence[int], event_time: str
) -> list[Partition]:
    """The partition as one for each range of time (that has rows of the spine). ``bounds`` are microseconds."""
    blocks = [block for block, _ in whole.spine]
    spine = _cut(flow, [ref for _, ref in whole.spine], bounds, None, event_time)
    ranges = [
        Partition([(block, ref) for block, ref in zip(blocks, pieces, strict=True) if ref is not None], [])
        for pieces in spine
    ]
    for step, refs in zip(steps, whole.features, strict=True):
        cut = _cut(flow, refs, bounds, step.kernel, event_time)
        for part, pieces in zip(ranges, _carried(flow, step, bounds, cut), strict=True):
            part.features.append(pieces)
    return [part for part in ranges if part.spine]


def _cut(
    flow: Flow, refs: Sequence[Ref], bounds: Sequence[int], kernel: Any, event_time: str
) -> list[list[Ref | None]]:
    """By range, then by piece; None: no rows (but one piece is always kept for features: it has the schema)."""
    calls = [(ref, list(bounds), kernel, event_time) for ref in refs]
    cuts, found = flow.run(tasks.cut_time, calls, len(bounds) + 1)
    ranges: list[list[Ref | None]] = []
    for i in range(len(bounds) + 1):
        kept = [pieces[i] if cut.rows[i] else None for cut, pieces in zip(cuts, found, strict=True)]
        if kernel is not None and not any(ref is not None for ref in kept):
            kept[0] = found[0][i]
        ranges.append(kept)
    return ranges


def _carried(flow: Flow, step: Step, bounds: Sequence[int], cut: Sequence[Sequence[Ref | None]]) -> list[list[Ref]]:
    ranges = [[ref for ref in pieces if ref is not None] for pieces in cut]
    if isinstance(step.kernel, Carrying):
        for i, bound in enumerate(bounds):  # each range's rows begin with what was carried into it
            _, [[carried]] = flow.run(tasks.carry, [(step.kernel, bound, *ranges[i])], 1)
            ranges[i + 1].insert(0, carried)
    return ranges
