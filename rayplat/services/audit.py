"""Verbs on the audit log: reading it, checking it, taking it along. An export is checked without any platform."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rayplat.artifacts import keys
from rayplat.artifacts.places.place import place_at
from rayplat.registry import anchors, audit_export, chain
from rayplat.registry.anchors import AnchorLog
from rayplat.registry.audit_export import Exported
from rayplat.registry.record import audit, crosscheck
from rayplat.services.verbs import Noun, route
from rayplat.types import AuditEntry, AuditReport, Role

PAGE = 2_000


@dataclass(frozen=True)
class AuditTable:
    """``rows`` entries were new in the Delta table named ``table``."""

    table: str
    rows: int


class Audit(Noun):
    """Who did what, in an order that cannot be changed without a trace."""

    NAME = "audit"

    @route("GET", "/audit", Role.VIEWER)
    def list(self, limit: int = 100, subject: str | None = None) -> tuple[AuditEntry, ...]:
        """The newest entries, newest first; of one subject, such as ``flight-delay@champion``."""
        return tuple(self._context.registry.read(audit.listed, limit, subject))

    @route("POST", "/audit/verify", Role.VIEWER, long=True)
    def verify(self) -> AuditReport:
        """Check the chain of the whole log, its anchors, and that the tables say what it says; names what is wrong."""
        notes = self._anchors.notes()  # before the entries: so no anchor is newer than they are
        report = anchors.check(self._entries(), notes, keys.trusted(self._context.settings.keys_folder))
        if not report.intact:
            return report
        edited = self._context.registry.read(crosscheck.check_record)
        return replace(report, problem=edited[0]) if edited else report

    @route("GET", "/audit/anchors", Role.VIEWER)
    def anchors(self) -> tuple[str, ...]:
        """The signed notes of the log's newest hashes that are kept outside the database, oldest first."""
        return tuple(note.decode() for note in self._anchors.notes())

    @route("GET", "/audit/lines", Role.VIEWER)
    def lines(self, after: int = 0) -> tuple[str, ...]:
        """Entries after number ``after`` as the lines of an export, at most 2,000."""
        return tuple(line.decode() for line in self._context.registry.read(audit.lines, after, PAGE))

    def export(self, file: Path | str) -> Exported:
        """Write the log and its anchors to a new file, for `rayplat audit verify` and others. Raises AlreadyExists."""
        notes = [note.encode() for note in self.anchors()]
        return audit_export.write(Path(file), audit_export.lines(notes, self._lines()))

    @route("POST", "/audit/table", Role.ADMIN, long=True)
    def table(self) -> AuditTable:
        """Append what is new to the Delta table ``audit``, each entry once."""
        new = audit_export.to_delta(self._context.registry, self._context.tables)
        return AuditTable(audit_export.TABLE, new)

    def _entries(self) -> Iterator[chain.Entry]:
        after = 0
        while found := self._context.registry.read(audit.batch, after, PAGE):
            yield from found
            if found[-1].seq <= after:
                return
            after = found[-1].seq

    def _lines(self) -> Iterator[bytes]:
        after = 0
        while found := self.lines(after):
            yield from (line.encode() for line in found)
            last = chain.parse(found[-1].encode()).seq
            if last <= after:
                return  # numbers that do not grow: whoever checks sees why
            after = last

    @property
    def _anchors(self) -> AnchorLog:
        settings = self._context.settings
        return AnchorLog(place_at(settings.anchors_root, settings.artifacts.storage_options))


def verify_file(file: Path, public_key: Path | None = None, folder: Path | None = None) -> AuditReport:
    """Check an export with the platform's public key (None: signatures are not checked) and the anchors in a folder
    where they were kept. Raises `NotFound`, `InvalidInput` for what is no export."""
    trusted = None if public_key is None else keys.TrustedKeys.of([keys.load_public(public_key)])
    more = [] if folder is None else [note.read_bytes() for note in sorted(folder.glob("**/*.json"))]
    return audit_export.verify_file(file, trusted, more)
