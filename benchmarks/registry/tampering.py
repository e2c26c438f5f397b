"""The tamper corpus: everything that can be done behind the platform's back to trees, descriptions, signatures and the
record, each tried on fresh state. Counts what was refused; all of it must be.

Trees go through the artifact store, forged MLmodels through the loader, misused statements through the verification of
signatures, and a changed database through the audit log's check, once with the hashes that anchors hold: the log
itself, and then every column of every table.
"""

from __future__ import annotations

import logging
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from benchmarks import rows
from rayplat.registry.record import audit
from rayplat.registry.record.database import Record
from tests.artifacts import forgeries, tampering
from tests.registry.desk import Desk
from tests.registry.edits import edits, fill, noticed

COMMAND = "make bench-registry"
_MIDDLE = "(select max(seq) / 2 from rp_audit)"
_LAST = "(select max(seq) from rp_audit)"

RECORD: dict[str, str] = {
    "edited row: actor": f"update rp_audit set actor = 'mallory' where seq = {_MIDDLE}",
    "edited row: action": f"update rp_audit set action = 'model.bless' where seq = {_MIDDLE}",
    "edited row: subject": f"update rp_audit set subject = subject || 'x' where seq = {_MIDDLE}",
    "edited row: detail": f"update rp_audit set detail = '{{}}' where seq = {_MIDDLE}",
    "edited row: time": f"update rp_audit set at = at + 1 where seq = {_MIDDLE}",
    "edited row: hash": f"update rp_audit set hash = prev_hash where seq = {_MIDDLE}",
    "edited row: the newest": f"update rp_audit set actor = 'mallory' where seq = {_LAST}",
    "edited row: the first": "update rp_audit set actor = 'mallory' where seq = 1",
    "removed row: in the middle": f"delete from rp_audit where seq = {_MIDDLE}",
    "removed row: the first": "delete from rp_audit where seq = 1",
    "removed row: the newest": f"delete from rp_audit where seq = {_LAST}",
    "removed rows: all": "delete from rp_audit",
    "removed row, numbers closed up": (
        f"delete from rp_audit where seq = {_MIDDLE}; update rp_audit set seq = seq - 1 where seq - 1 not in"
        " (select seq from rp_audit) and seq > 1"
    ),
    "inserted row": (
        "insert into rp_audit (seq, at, actor, action, subject, detail, prev_hash, hash)"
        " select seq + 1, at, actor, action, subject, detail, hash, hash from rp_audit order by seq desc limit 1"
    ),
    "two rows swapped": (
        "update rp_audit set seq = -1 where seq = 2; update rp_audit set seq = 2 where seq = 3;"
        " update rp_audit set seq = 3 where seq = -1"
    ),
}


def measure(work: Path, quick: bool) -> tuple[list[rows.Row], dict[str, Any]]:
    """``quick`` changes nothing: the corpus takes seconds."""
    logging.disable()
    through = {
        "trees": tampering.unrefused(work / "trees"),
        "descriptions and signatures": forgeries.accepted(work / "signatures"),
        "record": unnoticed(work / "record"),
        "tables": unnamed(work / "tables"),
    }
    logging.disable(logging.NOTSET)
    sizes = {
        "trees": tampering.size(),
        "descriptions and signatures": forgeries.size(),
        "record": len(RECORD),
        "tables": len(list(edits())),
    }
    total, missed = sum(sizes.values()), sum(map(len, through.values()))
    made = [rows.row("tamper corpus, refused", total - missed, f"of {total}", f"= {total}", COMMAND)]
    return made, {"sizes": sizes, "accepted": through}


def unnoticed(work: Path) -> list[str]:
    """Every change of a record's audit log that its check does not name: none must be left."""
    work.mkdir(parents=True)
    known = _written(work / "sound.db")
    if _problem(work / "sound.db", known) is not None:
        raise AssertionError("the untouched log is not intact")
    left = []
    for n, (name, change) in enumerate(RECORD.items()):
        database = work / f"{n}.db"
        shutil.copy(work / "sound.db", database)
        with sqlite3.connect(database) as connection:
            connection.executescript(change)
        if _problem(database, known) is None:
            left.append(name)
    return left


def unnamed(work: Path) -> list[str]:
    """Every edited column and deleted row of a table that the check does not name with its row: none must be left."""
    work.mkdir(parents=True)
    _opened(work / "tables.db", fill)
    engine, left = sa.create_engine(f"sqlite:///{work / 'tables.db'}"), []
    with engine.connect() as connection:
        for edit in edits():
            where = f"{edit.table.name} {edit.key(connection)}: "
            if not any(reason.startswith((where, "audit entry")) for reason in noticed(connection, edit)):
                left.append(edit.name)
    engine.dispose()
    return left


def _written(database: Path) -> dict[int, str]:
    """A record with a few entries; their newest one as an anchor outside of the database has it."""

    def do(record: Record) -> dict[int, str]:
        desk = Desk(record)
        for n in range(1, 9):
            desk.register(n)
        head = record.read(audit.head)
        return {} if head is None else {head.seq: head.hash}

    return _opened(database, do)


def _problem(database: Path, known: dict[int, str]) -> object:
    return _opened(database, lambda record: record.read(lambda c: audit.check(c, known)).problem)


def _opened(database: Path, do: Callable[[Record], Any]) -> Any:
    record = Record(f"sqlite:///{database}")
    try:
        return do(record)
    finally:
        record.close()
