"""The audit log as a file that is checked without a database, and as a Delta table for questions.

One JSON object a line (RFC 8785): ``{"audit":{"version":1}}``, then the anchors ``{"anchor":<DSSE envelope>}``, then
the entries ``{"body","hash","prev_hash"}`` in their order, then ``{"end":{"entries","hash"}}``. An entry's hash is the
sha256 of ``prev_hash`` and the bytes of ``body``: a few lines of any language can check it.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayplat.artifacts.keys import TrustedKeys
from rayplat.artifacts.manifest import canonical
from rayplat.errors import AlreadyExists, Conflict, InvalidInput, NotFound
from rayplat.registry import anchors, chain
from rayplat.registry.chain import START, Entry
from rayplat.registry.record import audit
from rayplat.types import AuditProblem, AuditReport, Tampering

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlalchemy import Connection

    from rayplat.data.tables import Tables
    from rayplat.registry.calls import Registry

VERSION = 1
TABLE = "audit"
_APP = "rayplat-audit"
_HEADER = canonical({"audit": {"version": VERSION}})
_ANCHOR, _END = b'{"anchor":', b'{"end":'
_BATCH = 5000


@dataclass(frozen=True)
class Exported:
    """``entries`` were written, the last of them has ``last_hash``."""

    entries: int
    last_hash: str


def lines(notes: Iterable[bytes], entries: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of an export, each with its line end, from anchors and from entries as `chain.line` has them.

    A log that does not fit is written as it is.
    """
    yield _HEADER + b"\n"
    for note in notes:
        yield _ANCHOR + note + b"}\n"
    count, last = 0, b""
    for last in entries:
        count += 1
        yield last + b"\n"
    end = next(chain.parsed([last])).hash if count else START
    yield canonical({"end": {"entries": count, "hash": end}}) + b"\n"


def export(connection: Connection, path: Path, notes: Iterable[bytes] = ()) -> Exported:
    """Write the log and its anchors to ``path``, which appears whole or not at all. Raises `AlreadyExists`.

    Take ``notes`` from the anchors before the connection is opened: then no anchor is newer than the entries.
    """
    return write(path, lines(notes, map(chain.line, audit.entries(connection))))


def write(path: Path, found: Iterable[bytes]) -> Exported:
    """The lines of an export as a file. Raises `AlreadyExists`, `InvalidInput` where there is no such folder."""
    path = Path(path)
    if path.exists():
        raise AlreadyExists(f"{path} is there already: an export replaces nothing; choose another name")
    if not path.parent.is_dir():
        raise InvalidInput("path", f"there is no folder {path.parent}")
    temporary, line = path.with_name(f".{path.name}.{secrets.token_hex(6)}"), _HEADER
    try:
        with temporary.open("xb") as file:
            for line in found:
                file.write(line)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError:
        raise AlreadyExists(f"{path} is there already: an export replaces nothing; choose another name") from None
    finally:
        temporary.unlink(missing_ok=True)  # a name of ours that nobody else has
    end = json.loads(line)["end"]
    return Exported(end["entries"], end["hash"])


def verify(found: Iterable[bytes], keys: TrustedKeys | None, more: Iterable[bytes] = ()) -> AuditReport:
    """Check the lines of an export: its chain, its anchors, and those in ``more`` that were kept elsewhere.

    ``keys`` are the platform's public keys, from where the export's author cannot have put them; without them the
    signatures are not checked. Raises `InvalidInput` for what is no export.
    """
    reader = _Reader(iter(found))
    notes = dict.fromkeys([*reader.notes(), *more])
    ordered = sorted(notes, key=_place_of)
    report = anchors.check(reader.entries(), ordered, keys)
    return report if report.problem is not None else replace(report, problem=reader.problem(report))


def verify_file(path: Path, keys: TrustedKeys | None, more: Iterable[bytes] = ()) -> AuditReport:
    """`verify` of a file. Raises `NotFound`."""
    try:
        with Path(path).open("rb") as file:
            return verify(file, keys, more)
    except FileNotFoundError:
        raise NotFound("audit export", str(path)) from None


class _Reader:
    """Takes an export apart, line by line."""

    def __init__(self, found: Iterator[bytes]) -> None:
        self._found, self._ahead = found, b""
        self._end: dict[str, Any] | None = None
        self._after_end = False

    def notes(self) -> list[bytes]:
        """The anchors at the beginning."""
        try:
            version = json.loads(next(self._found, b""))["audit"]["version"]
        except (ValueError, KeyError, TypeError):
            raise InvalidInput("audit export", "its first line is not that of an export of the audit log") from None
        if version != VERSION:
            raise InvalidInput("audit export", f"this release reads version {VERSION}, it has {version!r}")
        notes = []
        for line in self._found:
            if not line.startswith(_ANCHOR):
                self._ahead = line
                break
            notes.append(line.rstrip()[len(_ANCHOR) : -1])
        return notes

    def entries(self) -> Iterator[Entry]:
        """The entries, up to the line that ends them."""
        return chain.parsed(self._lines())

    def _lines(self) -> Iterator[bytes]:
        line = self._ahead
        while line:
            if line.startswith(_END):
                self._end = _end(line)
                self._after_end = bool(next(self._found, b"").strip())
                return
            yield line
            line = next(self._found, b"")

    def problem(self, report: AuditReport) -> AuditProblem | None:
        """What the last line says against the entries before it."""
        wanted = None if self._end is None else (self._end.get("entries"), self._end.get("hash"))
        if wanted == (report.entries, report.last_hash) and not self._after_end:
            return None
        if self._after_end:
            return AuditProblem(report.entries + 1, Tampering.INSERTED, "there are lines after the last one")
        reason = "the export has no last line" if wanted is None else f"its last line counts {wanted[0]} entries"
        return AuditProblem(report.entries + 1, Tampering.CUT, f"{reason}, there are {report.entries}")


def _end(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)["end"]
    except (ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _place_of(note: bytes) -> int:
    try:
        return anchors.unseal(note, None).seq
    except Exception:  # noqa: BLE001 - whatever it is, `anchors.check` says so
        return 0


# --- Delta --------------------------------------------------------------------------------------------


def to_delta(registry: Registry, tables: Tables) -> int:
    """Append what is new to the table ``audit``; how many entries. Each is there once, whoever calls how often: a
    commit names the first and the last entry it holds, and one that overlaps another's is not made."""
    if TABLE not in tables.names():
        with contextlib.suppress(AlreadyExists):  # another call was faster
            tables.create(TABLE, _schema())
    total, done = 0, tables.transaction_version(TABLE, _APP) or 0
    while batch := registry.read(audit.page, done, _BATCH):
        first, last = batch[0].seq, batch[-1].seq
        try:
            tables.append(TABLE, _table(batch), transactions=[(_APP, last), (f"{_APP}-from", first)])
            total += len(batch)
        except Conflict:
            if tables.transaction_version(TABLE, _APP) == (done or None):
                raise  # not because another call has appended some of these
        done = tables.transaction_version(TABLE, _APP) or done
    return total


def _schema() -> pa.Schema:
    import pyarrow as pa

    text = {name: pa.string() for name in ("actor", "action", "subject", "detail", "hash")}
    return pa.schema({"seq": pa.int64(), "at": pa.timestamp("us", tz="UTC"), **text})


def _table(batch: list[audit.Row]) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pylist([row._asdict() for row in batch], schema=_schema())
