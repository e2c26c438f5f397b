"""The hash chain of the audit log: what an entry's hash covers, and which entry of a sequence is the first bad one.

An entry's hash is the hex sha256 of the previous entry's hash (64 ASCII digits; 64 zeros before the first) followed by
the RFC 8785 bytes of its body: ``{"action","actor","at","detail","key","seq","subject"}``, ``at`` in microseconds since
1970 UTC. ``key``, the idempotency key, is there where the entry has one; the first release left it out of the hash,
which is accepted up to the first entry that has it, or has `ROWS` in its detail. This module reads no database and no
file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from json.encoder import encode_basestring as _quote
from typing import NamedTuple

from rayplat.artifacts.manifest import canonical
from rayplat.errors import InvalidInput
from rayplat.types import AuditProblem, AuditReport, Tampering

START = "0" * 64
ROWS = "row_digests"
"""The detail's field that every entry of this format has; see `record.journal`."""
_WINDOW = 1000  # entries after a bad one that are looked at, to say what happened
_KEY, _SEQ, _SUBJECT = b',"key":', b',"seq":', b',"subject":'
_HEAD, _HASH, _PREV, _END = b'{"body":', b',"hash":"', b'","prev_hash":"', b'"}'
_MARK = b'"' + ROWS.encode() + b'":{'
_TAIL = len(_HASH) + 64 + len(_PREV) + 64 + len(_END)


class Entry(NamedTuple):
    """A stored entry: its number, both hashes, and the bytes its hash covers; ``keyed``: they hold its key, which the
    hashes of the first release leave out."""

    seq: int
    prev_hash: str
    hash: str
    body: bytes
    keyed: bool = False

    @property
    def old_body(self) -> bytes | None:
        """The body without the key. The last match is the right one: quotes inside texts are escaped.

        None for an entry of today's format, whose hash always covers the key.
        """
        if not self.keyed or _MARK in self.body:
            return None
        head, _, tail = self.body.rpartition(_KEY)
        return head + tail[tail.find(_SEQ) :]


class Broken(Exception):
    """Ends a walk along the chain: ``problem`` says where and why."""

    def __init__(self, problem: AuditProblem) -> None:
        super().__init__(problem)
        self.problem = problem


def encode(seq: int, at: int, texts: tuple[str, str, str, str], key: str | None) -> bytes:
    """The body's bytes; ``texts`` = (actor, action, subject, detail), the detail as canonical JSON."""
    actor, action, subject, detail = texts
    keyed = "" if key is None else f',"key":{_quote(key)}'
    text = (
        f'{{"action":{_quote(action)},"actor":{_quote(actor)},"at":{at:d},"detail":{detail}'
        f'{keyed},"seq":{seq:d},"subject":{_quote(subject)}}}'
    )
    return text.encode("utf-8", "surrogatepass")


def entry_hash(prev_hash: str, body: bytes) -> str:
    """64 hex digits for an entry with ``body`` after one with ``prev_hash``."""
    return hashlib.sha256(prev_hash.encode("utf-8", "surrogatepass") + body).hexdigest()


class Chain:
    """A walk along the entries: ``seq`` and ``hash`` are those of the last one that fits."""

    def __init__(self, seq: int = 0, last_hash: str = START) -> None:
        self.seq, self.hash = seq, last_hash
        self._keyed = False

    def walk(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry, bytes]]:
        """Each entry that fits, with the body that its hash covers. Raises `Broken` at the first that does not."""
        rest = iter(entries)
        for entry in rest:
            body = self._covered(entry)
            if body is None:
                raise Broken(explain(self.seq, self.hash, [entry, *islice(rest, _WINDOW)]))
            self.seq, self.hash = entry.seq, entry.hash
            yield entry, body

    def _covered(self, entry: Entry) -> bytes | None:
        if entry.seq != self.seq + 1 or entry.prev_hash != self.hash:
            return None
        if entry.hash == entry_hash(self.hash, entry.body):
            self._keyed = self._keyed or entry.keyed or _MARK in entry.body
            return entry.body
        old = None if self._keyed else entry.old_body
        return old if old is not None and entry.hash == entry_hash(self.hash, old) else None


def explain(seq: int, prev: str, rest: list[Entry]) -> AuditProblem:
    """What happened after entry ``seq`` with hash ``prev``: ``rest`` follows there, and its first does not fit."""
    bad, wanted = rest[0], seq + 1
    moved = next((e for e in rest[1:] if e.prev_hash == prev and _genuine(e, wanted)), None)
    if moved is not None and any(e.hash == bad.prev_hash for e in rest):
        return AuditProblem(wanted, Tampering.REORDERED, "it stands behind entries that came after it")
    if moved is not None:
        return AuditProblem(bad.seq, Tampering.INSERTED, f"entry {seq} is followed by what another entry names")
    if bad.seq <= seq:
        return AuditProblem(bad.seq, Tampering.INSERTED, f"a second entry with this number follows entry {seq}")
    if bad.seq > wanted:
        return AuditProblem(wanted, Tampering.REMOVED, f"entry {seq} is followed by entry {bad.seq}")
    shift = next((n for n in range(1, _WINDOW) for n in (n, -n) if _genuine(bad, bad.seq + n)), 0)
    if shift > 0:
        return AuditProblem(wanted, Tampering.REMOVED, "the entries after it were given new numbers")
    if shift < 0:
        return AuditProblem(wanted + shift, Tampering.INSERTED, "the entries after it were given new numbers")
    if bad.prev_hash != prev and seq > 0 and _genuine(bad, bad.seq):
        return AuditProblem(seq, Tampering.EDITED, "its hash is not the one that the entry after it names")
    return AuditProblem(wanted, Tampering.EDITED, "its content does not give its hash")


def _genuine(entry: Entry, seq: int) -> bool:
    """Whether the entry's content gives its hash, had it the number ``seq``."""
    if seq < 1:
        return False
    bodies = (b for b in (entry.body, entry.old_body) if b)
    return any(entry.hash == entry_hash(entry.prev_hash, _numbered(b, seq)) for b in bodies)


def _numbered(body: bytes, seq: int) -> bytes:
    """The body with another number. The last match is the right one: quotes inside the subject are escaped."""
    head, _, tail = body.rpartition(_SEQ)
    return head + _SEQ + str(seq).encode() + tail[tail.find(_SUBJECT) :]


# --- one line of an export ----------------------------------------------------------------------------


def line(entry: Entry) -> bytes:
    """An entry as one line of RFC 8785 JSON, ``{"body","hash","prev_hash"}``; no line end."""
    old = entry.old_body
    body = old if old is not None and entry.hash == entry_hash(entry.prev_hash, old) else entry.body
    return b"".join((_HEAD, body or b"null", _HASH, entry.hash.encode(), _PREV, entry.prev_hash.encode(), _END))


def parse(text: bytes) -> Entry:
    """The entry in a line of an export, also of one that was laid out anew. Raises `ValueError` where there is none."""
    body, tail = text[len(_HEAD) : -_TAIL], text[-_TAIL:]
    its, prev = tail[len(_HASH) : len(_HASH) + 64], tail[-len(_END) - 64 : -len(_END)]
    if text.startswith(_HEAD) and tail == b"".join((_HASH, its, _PREV, prev, _END)):
        number = body.rpartition(_SEQ)[2].partition(_SUBJECT)[0]
        if number.isdigit():
            return Entry(int(number), prev.decode("latin-1"), its.decode("latin-1"), body)
    found = json.loads(text)
    inner = found.get("body") if isinstance(found, dict) else None
    if not isinstance(inner, dict) or type(inner.get("seq")) is not int:
        raise ValueError("the line holds no audit entry")
    return Entry(inner["seq"], str(found.get("prev_hash")), str(found.get("hash")), canonical(inner))


def parsed(lines: Iterable[bytes]) -> Iterator[Entry]:
    """The entries in lines of an export; for a line that holds none, one that fits nowhere."""
    for number, text in enumerate(lines, 1):
        try:
            yield parse(text.rstrip(b"\r\n"))
        except (ValueError, InvalidInput, RecursionError):
            yield Entry(number, "", "", b"")


# --- a whole log --------------------------------------------------------------------------------------


def check(entries: Iterable[Entry], known: Mapping[int, str], start: tuple[int, str] = (0, START)) -> AuditReport:
    """Walk along ``entries``, which follow ``start`` = (number, hash), and compare with ``known`` hashes by number.

    ``known`` comes from outside the log: that is how a cut tail shows, and a chain that was computed anew.
    """
    chain, good, problem = Chain(*start), start[0], None
    try:
        for entry, _ in chain.walk(entries):
            wanted = known.get(entry.seq)
            if wanted is None:
                continue
            if wanted != entry.hash:
                reason = (
                    f"entries up to {entry.seq} have other hashes than an anchor knows: the chain was computed anew"
                )
                problem = AuditProblem(good + 1, Tampering.REWRITTEN, reason)
                break
            good = entry.seq
        else:
            if known and max(known) > chain.seq:
                reason = f"an anchor knows entry {max(known)}, the log ends with entry {chain.seq}"
                problem = AuditProblem(chain.seq + 1, Tampering.CUT, reason)
    except Broken as e:
        problem = e.problem
    return AuditReport(chain.seq, chain.hash, problem=problem, anchors=len(known), anchored_seq=good)
