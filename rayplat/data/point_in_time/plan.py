"""The point-in-time join on the cluster: which sides are broadcast, which are shuffled, and in what order.

A small side is prepared once and shared by all tasks that hold a block of the spine. For the others, keys, moments and
row numbers of the spine and the rows of the sides are cut by key, each partition is answered by one task, and the
answers go back to the blocks they came from: the spine's other columns stay where they are and rows keep their order.
Sides with the same keys share one cut of the spine. A side whose key is a feature of another comes in a later stage. A
partition that one key has crowded is cut by time. No row passes through the process that calls this.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from rayplat.data.point_in_time import tasks
from rayplat.data.point_in_time.exchange import Step
from rayplat.data.point_in_time.flow import Flow
from rayplat.data.point_in_time.shuffle import share, shuffle
from rayplat.data.point_in_time.sides import Side, Source, in_order, schema_of, source, spine_blocks
from rayplat.data.tables.scan import Scan
from rayplat.errors import InvalidInput
from rayplat.resources import require_resources

if TYPE_CHECKING:
    from ray import ObjectRef

BROADCAST_BYTES = 64 << 20
PARTITION_BYTES = 64 << 20
_MOST_PARTITIONS = 2048
_SPINE_BYTES = 24  # of a row's key, moment and number

log = logging.getLogger(__name__)
Plan = Literal["auto", "broadcast", "shuffle"]


@dataclass(frozen=True)
class Joined:
    """References to the joined ``blocks`` (Arrow tables), in the spine's order; all its ``rows``; what was done."""

    blocks: list[ObjectRef[pa.Table]]
    rows: int
    report: dict[str, Any]


def join_on_cluster(
    spine: Scan | pa.Table | Sequence[ObjectRef[pa.Table]],
    sides: Sequence[Side],
    *,
    event_time: str = "event_time",
    ordered: bool = True,
    plan: Plan = "auto",
    partitions: int | None = None,
) -> Joined:
    """The spine with the features of every side, as `rayplat.data.point_in_time.join` gives them; the spine wins where
    names clash, then the earlier side.

    ``ordered`` asks for the spine's order (row by row, block by block). ``plan`` decides for all sides instead of by
    their size, ``partitions`` how many there are in each shuffle. Raises `SchemaMismatch` before any row is read where
    columns do not fit, `Unschedulable` within 10 s where not even one task of a CPU fits.
    """
    if plan not in ("auto", "broadcast", "shuffle"):
        raise InvalidInput("plan", f"{plan!r} is none of auto, broadcast, shuffle")
    if partitions is not None and not 1 <= partitions <= _MOST_PARTITIONS:
        raise InvalidInput("partitions", f"{partitions} is not in 1 to {_MOST_PARTITIONS}")
    require_resources("a point-in-time join", [{"CPU": 1}])
    schemas = [schema_of(side.rows, f"rows of side {side.name!r}") for side in sides]
    planned, columns = in_order(schema_of(spine, "spine"), event_time, sides, schemas)
    run = _Run(event_time, plan, partitions)
    run.open(spine)
    for stage in range(max((p.stage for p in planned), default=-1) + 1):
        now = [i for i, p in enumerate(planned) if p.stage == stage and p.step.outputs]
        run.stage([(planned[i].step, source(run.flow, sides[i], schemas[i], run.ends)) for i in now])
    return run.close(columns, ordered)


class _Run:
    """One join: the blocks of the spine, and what is still to be appended to them."""

    def __init__(self, event_time: str, plan: Plan, partitions: int | None) -> None:
        self.flow = Flow()
        self.ends: tuple[int, int] | None = None
        self._event_time, self._plan, self._partitions = event_time, plan, partitions
        self._blocks: list[Any] = []
        self._rows: list[int] = []
        self._answers: list[list[list[Any]]] = []  # by shuffle, by block
        self._shared: list[tuple[Step, list[Any]]] = []
        self._began = time.perf_counter()
        self._report: dict[str, Any] = {"sides": {}, "shuffles": []}

    def open(self, spine: Any) -> None:
        """Read or measure the spine."""
        measures, self._blocks = spine_blocks(self.flow, spine, self._event_time)
        self._rows = [rows for rows, _, _ in measures]
        known = [ends for _, _, ends in measures if ends is not None]
        self.ends = (min(low for low, _ in known), max(high for _, high in known)) if known else None

    def stage(self, sides: Sequence[tuple[Step, Source]]) -> None:
        """Answer sides whose keys are there."""
        large = [(step, found) for step, found in sides if not self._is_small(found)]
        if large and (self._answers or self._shared):
            self._assemble(None)
        for step, found in sides:
            shuffled = any(step is one for one, _ in large)
            about = {"plan": "shuffle" if shuffled else "broadcast", "bytes": found.size_bytes, "files": found.files}
            self._report["sides"][step.name] = about
        self._share([(step, found) for step, found in sides if not any(step is one for one, _ in large)])
        for on in dict.fromkeys(step.on for step, _ in large):
            self._shuffle([(step, found) for step, found in large if step.on == on])

    def close(self, columns: Sequence[str], ordered: bool) -> Joined:
        """The result."""
        if self._answers or self._shared:
            self._assemble(columns)
        self._report |= {"blocks": len(self._blocks), "ordered": ordered}
        self._report["seconds"] = round(time.perf_counter() - self._began, 3)
        log.info("point-in-time join", extra={"rows": sum(self._rows), **self._report})
        return Joined(self._blocks, sum(self._rows), self._report)

    def _share(self, sides: Sequence[tuple[Step, Source]]) -> None:
        """Prepare each side once; a large one in shards, by all workers."""
        small = [side for side in sides if side[1].size_bytes <= BROADCAST_BYTES]
        calls: list[tuple[Any, ...]] = [(step.kernel, found.where, *found.parts) for step, found in small]
        counts, prepared = self.flow.run(tasks.prepare, calls, 1)
        made = {step.name: (rows, refs) for (step, _), rows, refs in zip(small, counts, prepared, strict=True)}
        for step, found in sides:
            if step.name not in made:
                shards = min(-(-found.size_bytes // PARTITION_BYTES), _MOST_PARTITIONS)
                refs, rows = share(self.flow, (step, found), shards)
                made[step.name] = (rows, refs)
            rows, refs = made[step.name]
            self._report["sides"][step.name]["rows"] = rows
            self._shared.append((step, refs))

    def _is_small(self, found: Source) -> bool:
        return self._plan == "broadcast" or (self._plan == "auto" and found.size_bytes <= BROADCAST_BYTES)

    def _shuffle(self, sides: Sequence[tuple[Step, Source]]) -> None:
        size = sum(found.size_bytes for _, found in sides) + _SPINE_BYTES * sum(self._rows)
        wanted = max(-(-size // PARTITION_BYTES), 4 * self.flow.cpus() if size > PARTITION_BYTES else self.flow.cpus())
        count = self._partitions or min(wanted, _MOST_PARTITIONS)
        answers = shuffle(self.flow, self._blocks, sides, self._event_time, count)
        self._answers.append(answers.blocks)
        for (step, _), rows in zip(sides, answers.feature_rows, strict=True):
            self._report["sides"][step.name]["rows"] = rows
        about = {"keys": list(sides[0][0].on), "partitions": count, "crowded": answers.crowded}
        self._report["shuffles"].append(about)

    def _assemble(self, columns: Sequence[str] | None) -> None:
        """Append what is there to every block."""
        steps = [(step, len(refs)) for step, refs in self._shared]
        prepared = [ref for _, refs in self._shared for ref in refs]
        calls: list[tuple[Any, ...]] = []
        for i, block in enumerate(self._blocks):
            pieces = [answers[i] for answers in self._answers]
            flat = [ref for refs in pieces for ref in refs]
            calls.append((block, [len(refs) for refs in pieces], steps, self._event_time, columns, *flat, *prepared))
        self._blocks, self._answers, self._shared = [], [], []
        _, found = self.flow.run(tasks.assemble, calls, 1)
        self._blocks = [refs[0] for refs in found]
