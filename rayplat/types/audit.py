"""What a check of the audit log says."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Tampering(enum.StrEnum):
    """What became of the first entry that does not fit.

    ``REWRITTEN``: the chain fits in itself, but an anchor knows another hash. ``ANCHOR``: not an entry but an anchor is
    wrong. ``RECORD``: a row of another table says something else than the audit log.
    """

    EDITED = "edited"
    REMOVED = "removed"
    INSERTED = "inserted"
    REORDERED = "reordered"
    CUT = "cut"
    REWRITTEN = "rewritten"
    ANCHOR = "anchor"
    RECORD = "record"


@dataclass(frozen=True)
class AuditProblem:
    """``seq`` is the number of the first bad entry (of an anchor: the one it stands for)."""

    seq: int
    kind: Tampering
    reason: str

    def __str__(self) -> str:
        return f"audit entry {self.seq}: {self.kind.value}: {self.reason}"


@dataclass(frozen=True)
class AuditReport:
    """``entries`` were checked, the last of them has ``last_hash``; ``anchors`` of them were compared, the newest for
    entry ``anchored_seq`` (0: none). Entries after that could have been cut off without a trace.

    ``signatures`` False: no public key was at hand, so the anchors' signatures were not checked."""

    entries: int
    last_hash: str
    anchors: int = 0
    anchored_seq: int = 0
    signatures: bool = True
    problem: AuditProblem | None = None

    @property
    def intact(self) -> bool:
        return self.problem is None
