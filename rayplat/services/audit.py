"""Verbs on the audit log: reading it, checking it, taking it along.

An export is checked without any platform by `verify_file`."""

from __future__ import annotations

from dataclasses import dataclass

from rayplat.registry.record import audit
from rayplat.services.verbs import Noun, route
from rayplat.types import AuditEntry, Role

PAGE = 5_000


@dataclass(frozen=True)
class AuditExport:
    """``file`` holds the entries up to number ``last_seq``, one a line."""

    file: str
    entries: int
    last_seq: int


class Audit(Noun):
    """Who did what, in an order that cannot be changed without a trace."""

    NAME = "audit"

    @route("GET", "/audit", Role.VIEWER)
    def list(self, limit: int = 100, subject: str | None = None) -> tuple[AuditEntry, ...]:
        """The newest entries, newest first; of one subject, such as ``flight-delay@champion``."""
        return tuple(self._context.registry.read(audit.listed, limit, subject))
