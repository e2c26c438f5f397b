from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from rayplat.artifacts import keys
from rayplat.artifacts.keys import SigningKey, TrustedKeys
from rayplat.artifacts.places.folder import FolderPlace
from rayplat.data.tables import Tables
from rayplat.errors import AlreadyExists, Corrupt, InvalidInput, NotFound
from rayplat.registry import anchors, audit_export
from rayplat.registry.anchors import Anchorer, AnchorLog, AnchorTerms
from rayplat.registry.record import audit, schema
from rayplat.registry.record.database import Tx
from rayplat.types import AuditReport, Tampering


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return keys.ensure(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def trusted(key: SigningKey) -> TrustedKeys:
    return TrustedKeys.of([key.public])


@pytest.fixture
def kept(tmp_path: Path) -> AnchorLog:
    return AnchorLog(FolderPlace(tmp_path / "anchors"))


class Clock:
    at = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.at


class Books:
    """The audit table alone, in memory; it reads as a registry does."""

    def __init__(self) -> None:
        self.engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
        schema.audit.create(self.engine)

    def read(self, query: Callable[..., Any], *args: Any) -> Any:
        with self.engine.connect() as connection:
            return query(connection, *args)


@pytest.fixture
def record() -> Books:
    return Books()


def append(record: Books, n: int = 1, key: str | None = None) -> None:
    with record.engine.begin() as connection:
        for i in range(n):
            tx = Tx(connection, datetime(2026, 1, 1, tzinfo=UTC), key)
            audit.append(tx, "ann", "thing.change", f"thing-{i}", {"n": i})
            tx.close()


def edit(record: Books, sql: str) -> None:
    with record.engine.begin() as connection:
        connection.exec_driver_sql(sql)


def anchorer(record: Books, kept: AnchorLog, key: SigningKey, every: int = 1, clock: Any = None) -> Anchorer:
    return Anchorer(record.read, kept, key, AnchorTerms(every, 60.0), clock or Clock())


def anchored(record: Books, kept: AnchorLog, key: SigningKey, *counts: int) -> None:
    writer = anchorer(record, kept, key)
    for n in counts:
        append(record, n)
        assert writer.tick() is not None


def exported(record: Books, kept: AnchorLog, path: Path) -> list[bytes]:
    notes = kept.notes()
    record.read(lambda s: audit_export.export(s, path, notes))
    return path.read_bytes().splitlines(keepends=True)


# --- anchors ------------------------------------------------------------------------------------------


def test_an_anchor_is_written_after_so_many_entries_or_so_much_time_and_only_for_something_new(
    record: Books, kept: AnchorLog, key: SigningKey
) -> None:
    clock = Clock()
    writer = anchorer(record, kept, key, every=3, clock=clock)
    assert writer.tick() is None
    append(record)
    assert writer.tick() is not None  # nothing vouched for anything yet
    append(record, 2)
    assert writer.tick() is None
    append(record)
    made = writer.tick()
    assert made is not None
    assert made.seq == 4
    append(record)
    clock.at += timedelta(seconds=59)
    assert writer.tick() is None
    clock.at += timedelta(seconds=1)
    assert writer.tick() is not None
    clock.at += timedelta(seconds=600)
    assert writer.tick() is None
    assert [anchors.unseal(n, None).seq for n in kept.notes()] == [1, 4, 5]


def test_another_process_goes_on_where_the_last_one_stopped(
    record: Books, kept: AnchorLog, key: SigningKey, trusted: TrustedKeys
) -> None:
    for _ in range(3):
        anchored(record, kept, key, 2)
    report = record.read(lambda s: anchors.check(audit.entries(s), kept.notes(), trusted))
    assert report == AuditReport(6, report.last_hash, anchors=3, anchored_seq=6)
    assert report.intact


def test_nothing_is_vouched_for_that_does_not_fit(
    record: Books, kept: AnchorLog, key: SigningKey, caplog: pytest.LogCaptureFixture
) -> None:
    writer = anchorer(record, kept, key)
    append(record, 3)
    assert writer.tick() is not None
    append(record, 3)
    edit(record, "update rp_audit set actor = 'eve' where seq = 5")
    assert writer.tick() is None
    assert "audit entry 5: edited" in caplog.text
    edit(record, "delete from rp_audit where seq > 2")
    assert writer.tick() is None
    assert "it was cut" in caplog.text


@pytest.mark.parametrize(
    ("take", "seq", "why"),
    [
        (lambda notes: notes[1:], 4, "the first ones are missing"),
        (lambda notes: [notes[0], *notes[2:]], 6, "one between them is missing"),
        (lambda notes: [notes[0], notes[2], notes[1], notes[3]], 6, "is missing"),
        (lambda notes: [notes[0], notes[1].replace(b'"payload":"e', b'"payload":"f'), *notes[2:]], 3, "anchor after"),
        (lambda notes: [notes[0], b"{}", *notes[2:]], 3, "cannot be read"),
    ],
)
def test_anchors_cannot_be_taken_out_or_changed(
    record: Books,
    kept: AnchorLog,
    key: SigningKey,
    trusted: TrustedKeys,
    take: Callable[[list[bytes]], list[bytes]],
    seq: int,
    why: str,
) -> None:
    anchored(record, kept, key, 2, 2, 2, 2)
    report = record.read(lambda s: anchors.check(audit.entries(s), take(kept.notes()), trusted))
    assert report.problem is not None
    assert (report.problem.kind, report.problem.seq) == (Tampering.ANCHOR, seq)
    assert why in report.problem.reason


def test_an_anchor_of_another_key_is_refused_and_without_keys_the_report_says_so(
    record: Books, kept: AnchorLog, key: SigningKey, trusted: TrustedKeys, tmp_path: Path
) -> None:
    anchored(record, kept, keys.ensure(tmp_path / "other"), 2)
    report = record.read(lambda s: anchors.check(audit.entries(s), kept.notes(), trusted))
    assert report.problem is not None
    assert report.problem.kind is Tampering.ANCHOR
    unsigned = record.read(lambda s: anchors.check(audit.entries(s), kept.notes(), None))
    assert unsigned.intact
    assert not unsigned.signatures


INSERTED = """insert into rp_audit
    select 7, at, actor, action, subject, detail, hash, hash, null from rp_audit where seq = 6"""

# --- the database -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "seq", "kind"),
    [
        ("update rp_audit set actor = 'eve' where seq = 3", 3, Tampering.EDITED),
        ("update rp_audit set at = at + 1 where seq = 3", 3, Tampering.EDITED),
        ("update rp_audit set at = 'noon' where seq = 3", 3, Tampering.EDITED),
        ("update rp_audit set detail = '{\"n\":7}' where seq = 3", 3, Tampering.EDITED),
        ("update rp_audit set detail = '{' where seq = 3", 3, Tampering.EDITED),
        ("update rp_audit set request_key = null where seq = 1", 1, Tampering.EDITED),
        ("update rp_audit set hash = 'x' where seq = 3", 3, Tampering.EDITED),
        ("update rp_audit set prev_hash = 'x' where seq = 3", 3, Tampering.EDITED),
        ("delete from rp_audit where seq = 1", 1, Tampering.REMOVED),
        ("delete from rp_audit where seq = 3", 3, Tampering.REMOVED),
        ("delete from rp_audit where seq in (3, 4)", 3, Tampering.REMOVED),
        ("delete from rp_audit where seq > 5", 6, Tampering.CUT),
        ("delete from rp_audit", 1, Tampering.CUT),
        ("update rp_audit set seq = 30 where seq = 3", 3, Tampering.REORDERED),
        (INSERTED, 7, Tampering.EDITED),  # after the last one, an insertion cannot be told from an edit
    ],
)
def test_whatever_is_done_to_a_row_is_named(
    record: Books,
    kept: AnchorLog,
    key: SigningKey,
    trusted: TrustedKeys,
    tmp_path: Path,
    sql: str,
    seq: int,
    kind: Tampering,
) -> None:
    append(record, key="request-1")
    anchored(record, kept, key, 5)
    edit(record, sql)
    report = record.read(lambda s: anchors.check(audit.entries(s), kept.notes(), trusted))
    assert report.problem is not None
    assert (report.problem.seq, report.problem.kind) == (seq, kind)
    if kind is not Tampering.CUT:
        with pytest.raises(Corrupt, match=f"audit entry {seq}"):
            record.read(audit.verify)
    offline = audit_export.verify(exported(record, kept, tmp_path / "audit.jsonl"), trusted)
    assert offline.problem is not None
    assert (offline.problem.seq, offline.problem.kind) == (seq, kind)


def test_a_key_that_was_added_to_an_entry_is_named(record: Books) -> None:
    append(record, key="request-1")
    append(record, 3)
    edit(record, "update rp_audit set request_key = 'k' where seq = 3")
    with pytest.raises(Corrupt, match="audit entry 3"):
        record.read(audit.verify)


# --- an export ----------------------------------------------------------------------------------------


def test_an_export_is_checked_without_a_database(
    record: Books, kept: AnchorLog, key: SigningKey, trusted: TrustedKeys, tmp_path: Path
) -> None:
    append(record, key="request-1")
    anchored(record, kept, key, 3, 3)
    append(record, 2)
    path = tmp_path / "audit.jsonl"
    made = record.read(lambda s: audit_export.export(s, path, kept.notes()))
    report = audit_export.verify_file(path, trusted)
    assert report == AuditReport(9, made.last_hash, anchors=2, anchored_seq=7)
    with pytest.raises(AlreadyExists):
        record.read(lambda s: audit_export.export(s, path))
    with pytest.raises(NotFound):
        audit_export.verify_file(tmp_path / "absent", trusted)
    with pytest.raises(InvalidInput, match="folder"):
        record.read(lambda s: audit_export.export(s, tmp_path / "absent" / "file"))
    assert [p.name for p in tmp_path.glob("*.jsonl*")] == ["audit.jsonl"]


def test_pages_of_an_export_are_the_export(record: Books, kept: AnchorLog, key: SigningKey, tmp_path: Path) -> None:
    anchored(record, kept, key, 7)

    def paged() -> Any:
        after = 0
        while page := record.read(audit.lines, after, 3):
            yield from page
            after += len(page)

    audit_export.write(tmp_path / "paged", audit_export.lines(kept.notes(), paged()))
    assert (tmp_path / "paged").read_bytes() == b"".join(exported(record, kept, tmp_path / "whole"))


def without(n: int) -> Callable[[list[bytes]], list[bytes]]:
    return lambda lines: lines[:n] + lines[n + 1 :]


# Lines: 0 the header, 1 and 2 anchors (of entries 3 and 6), 3 to 10 entries 1 to 8, 11 the end.
@pytest.mark.parametrize(
    ("tamper", "seq", "kind"),
    [
        (lambda lines: [*lines[:5], lines[5].replace(b"ann", b"eve"), *lines[6:]], 3, Tampering.EDITED),
        (lambda lines: [*lines[:5], b"not a line\n", *lines[6:]], 3, Tampering.EDITED),
        (lambda lines: [*lines[:5], b"[" * 10_000 + b"\n", *lines[6:]], 3, Tampering.EDITED),
        (without(5), 3, Tampering.REMOVED),
        (lambda lines: [*lines[:6], lines[5], *lines[6:]], 3, Tampering.INSERTED),
        (lambda lines: [*lines[:5], lines[6], lines[5], *lines[7:]], 3, Tampering.REORDERED),
        (lambda lines: lines[:8], 6, Tampering.CUT),
        (lambda lines: [*lines[:8], lines[-1]], 6, Tampering.CUT),
        (lambda lines: lines[:10], 8, Tampering.CUT),
        (lambda lines: lines[:11], 9, Tampering.CUT),
        (without(10), 8, Tampering.CUT),
        (lambda lines: [*lines, lines[5]], 9, Tampering.INSERTED),
        (without(1), 6, Tampering.ANCHOR),
        (lambda lines: [*lines[:10], lines[10][:50]], 8, Tampering.EDITED),
    ],
)
def test_the_first_bad_entry_of_an_export_is_named(
    record: Books,
    kept: AnchorLog,
    key: SigningKey,
    trusted: TrustedKeys,
    tmp_path: Path,
    tamper: Callable[[list[bytes]], list[bytes]],
    seq: int,
    kind: Tampering,
) -> None:
    anchored(record, kept, key, 3, 3)
    append(record, 2)
    lines = exported(record, kept, tmp_path / "audit.jsonl")
    assert len(lines) == 12
    assert audit_export.verify(lines, trusted).intact
    problem = audit_export.verify(tamper(lines), trusted).problem
    assert problem is not None
    assert (problem.seq, problem.kind) == (seq, kind)


def test_what_was_written_anew_with_all_hashes_shows_by_anchors_kept_elsewhere(
    record: Books, kept: AnchorLog, key: SigningKey, trusted: TrustedKeys, tmp_path: Path
) -> None:
    anchored(record, kept, key, 3, 3)
    elsewhere = kept.notes()
    edit(record, "delete from rp_audit where seq > 2")
    append(record, 6)
    forged = exported(record, AnchorLog(FolderPlace(tmp_path / "none")), tmp_path / "audit.jsonl")
    assert audit_export.verify(forged, trusted).intact
    problem = audit_export.verify(forged, trusted, elsewhere).problem
    assert problem is not None
    assert problem.kind is Tampering.REWRITTEN


def test_what_is_no_export_is_refused(trusted: TrustedKeys) -> None:
    for found in ([], [b"\n"], [b"{}\n"], [b'{"audit":{"version":2}}\n'], [b"\x80"]):
        with pytest.raises(InvalidInput, match="audit export"):
            audit_export.verify(found, trusted)


def test_an_export_that_another_program_laid_out_anew_is_still_good(
    record: Books, kept: AnchorLog, key: SigningKey, trusted: TrustedKeys, tmp_path: Path
) -> None:
    append(record, key="é")
    anchored(record, kept, key, 3)
    lines = exported(record, kept, tmp_path / "audit.jsonl")
    loose = [lines[0], lines[1], *(json.dumps(json.loads(x)).encode() + b"\r\n" for x in lines[2:])]
    assert audit_export.verify(loose, trusted).intact


# --- Delta --------------------------------------------------------------------------------------------


def test_each_entry_is_in_the_delta_table_once(record: Books, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry: Any = record
    tables = Tables(str(tmp_path / "tables"))
    monkeypatch.setattr(audit_export, "_BATCH", 3)
    append(record, 4)
    assert audit_export.to_delta(registry, tables) == 4
    assert audit_export.to_delta(registry, tables) == 0
    append(record, 2)
    real = tables.append

    def overtaken(*args: Any, **named: Any) -> Any:
        monkeypatch.setattr(tables, "append", real)
        append(record)  # and another export, which begins where this one does, is faster
        assert audit_export.to_delta(registry, tables) == 3
        return real(*args, **named)

    monkeypatch.setattr(tables, "append", overtaken)
    audit_export.to_delta(registry, tables)
    found = tables.scan("audit").table().sort_by("seq").to_pydict()
    assert found["seq"] == [1, 2, 3, 4, 5, 6, 7]
    assert found["detail"][1] == '{"n":1,"row_digests":{}}'
    assert found["hash"] == [e.hash for e in record.read(lambda s: list(audit.entries(s)))]
