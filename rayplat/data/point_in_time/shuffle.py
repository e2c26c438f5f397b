"""Answering large sides of the same keys: all rows cut by key, each partition answered by one task, the answers sorted
by the block of the spine that they belong to. Runs on Ray; the driver sees counts and references only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rayplat.data.point_in_time import tasks
from rayplat.data.point_in_time.crowded import Partition, by_time
from rayplat.data.point_in_time.exchange import Carrying, Cut, Step, bounds_of
from rayplat.data.point_in_time.flow import Flow
from rayplat.data.point_in_time.sides import Source

if TYPE_CHECKING:
    import pyarrow as pa
    from ray import ObjectRef

    Ref = ObjectRef[pa.Table]

CROWDED_ROWS = 1 << 19
_MOST_RANGES = 64


@dataclass(frozen=True)
class Answers:
    """``blocks`` has, for each block of the spine, references to all answers for its rows."""

    blocks: list[list[Ref]]
    feature_rows: list[int]
    crowded: int


@dataclass
class _Cuts:
    """Every part's rows by partition."""

    cuts: list[Cut]
    refs: list[list[Ref]]

    def rows(self) -> Any:
        return np.sum([cut.rows for cut in self.cuts], axis=0)

    def samples(self, partition: int) -> list[tuple[int, Any]]:
        """Of one partition: (rows, some of their moments) of each part in which it is crowded."""
        return [
            (int(cut.rows[partition]), cut.samples[partition])
            for cut in self.cuts
            if len(cut.samples.get(partition, ()))
        ]

    def take(self, partition: int, keep_one: bool = False) -> list[tuple[int, Ref]]:
        """(part, reference) wherever there are rows; ``keep_one``: at least one, for its schema."""
        found = [(i, self.refs[i][partition]) for i, cut in enumerate(self.cuts) if cut.rows[partition]]
        return found or ([(0, self.refs[0][partition])] if keep_one else [])


def shuffle(
    flow: Flow, blocks: Sequence[Ref], sides: Sequence[tuple[Step, Source]], event_time: str, partitions: int
) -> Answers:
    """The answers of ``sides``, which have the same keys in the spine, for every row of its ``blocks``."""
    steps = [step for step, _ in sides]
    calls: list[tuple[Any, ...]] = [(block, steps[0].on, event_time, partitions) for block in blocks]
    spine = _cut(flow, tasks.cut_spine, calls, partitions)
    features = []
    for step, source in sides:
        calls = [(part, step.kernel, source.where, partitions) for part in source.parts]
        features.append(_cut(flow, tasks.cut_features, calls, partitions))
    parts, crowded = _partitions(flow, spine, features, steps, event_time)
    rows = [int(each.rows().sum()) for each in features]
    spine.refs.clear()
    for each in features:
        each.refs.clear()
    return Answers(_answered(flow, parts, steps, event_time, len(blocks)), rows, crowded)


def share(flow: Flow, side: tuple[Step, Source], shards: int) -> tuple[list[Ref], int]:
    """A side prepared in ``shards``, each by a task of its own, and how many rows it has."""
    step, source = side
    calls: list[tuple[Any, ...]] = [(part, step.kernel, source.where, shards) for part in source.parts]
    cuts = _cut(flow, tasks.cut_features, calls, shards)
    calls = [(step.kernel, None, *(ref for _, ref in cuts.take(i, keep_one=True))) for i in range(shards)]
    cuts.refs.clear()
    _, prepared = flow.run(tasks.prepare, calls, 1)
    return [refs[0] for refs in prepared], int(cuts.rows().sum())


def _cut(flow: Flow, function: Callable[..., Any], calls: list[tuple[Any, ...]], partitions: int) -> _Cuts:
    cuts, refs = flow.run(function, calls, partitions)
    return _Cuts(cuts, refs)


def _partitions(
    flow: Flow, spine: _Cuts, features: Sequence[_Cuts], steps: Sequence[Step], event_time: str
) -> tuple[list[Partition], int]:
    """What each task answers, and how many partitions had to be cut by time."""
    rows = spine.rows() + sum(each.rows() for each in features)
    most = max(CROWDED_ROWS, 2 * int(rows.mean()))
    parts, crowded = [], 0
    asked = spine.rows()
    for i in range(len(rows)):
        empty_blocks = [(block, spine.refs[block][i]) for block, cut in enumerate(spine.cuts) if not cut.rows.any()]
        pieces = spine.take(i) + (empty_blocks if i == 0 else [])
        if not pieces:
            continue
        whole = Partition(pieces, [[ref for _, ref in each.take(i, keep_one=True)] for each in features])
        samples = spine.samples(i)
        for step, each in zip(steps, features, strict=True):
            samples += each.samples(i) if isinstance(step.kernel, Carrying) else []
        bounds = bounds_of(samples, min(_MOST_RANGES, -(-int(rows[i]) // most))) if samples and rows[i] > most else []
        if bounds and asked[i]:
            crowded += 1
            parts += by_time(flow, whole, steps, bounds, event_time)
            parts += [Partition(empty_blocks, whole.features)] if i == 0 and empty_blocks else []
        else:
            parts.append(whole)
    return parts, crowded


def _answered(
    flow: Flow, parts: list[Partition], steps: Sequence[Step], event_time: str, blocks: int
) -> list[list[Ref]]:
    owners = [[block for block, _ in part.spine] for part in parts]
    calls: list[tuple[Any, ...]] = []
    for part in parts:
        layout = [(step, len(refs)) for step, refs in zip(steps, part.features, strict=True)]
        refs = [ref for _, ref in part.spine] + [ref for refs in part.features for ref in refs]
        calls.append((layout, len(part.spine), event_time, *refs))
    parts.clear()
    _, found = flow.run(tasks.answer, calls, [len(of) for of in owners])
    answers: list[list[Ref]] = [[] for _ in range(blocks)]
    for of, refs in zip(owners, found, strict=True):
        for block, ref in zip(of, refs, strict=True):
            answers[block].append(ref)
    return answers
