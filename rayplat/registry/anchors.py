"""Anchors of the audit log: signed notes of its newest hash, kept outside the database.

An anchor is a DSSE envelope around ``{"at","hash","previous","seq"}``: the entry's number and hash, and the sha256 of
the anchor before it, so that none can be taken out of the middle. They lie in a place of their own (a folder, S3) as
``anchors/<number>.json``; who reaches the database should not be able to write there. What no anchor covers yet, and
the newest anchors together with the entries after the one before them, can still be cut off.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from rayplat.artifacts.keys import SigningKey, TrustedKeys
from rayplat.artifacts.manifest import canonical, sha256
from rayplat.artifacts.places.place import Place
from rayplat.errors import Conflict, NotTrusted
from rayplat.registry import chain
from rayplat.registry.chain import Entry
from rayplat.registry.record import audit
from rayplat.types import AuditProblem, AuditReport, Tampering

if TYPE_CHECKING:
    from sqlalchemy import Connection

log = logging.getLogger(__name__)
R = TypeVar("R")

PAYLOAD_TYPE = "application/vnd.rayplat.audit-anchor+json"
_PREFIX = "anchors/"
_MAX_BYTES = 65_536


@dataclass(frozen=True)
class Anchor:
    """Entry ``seq`` has ``hash``; ``note`` is the envelope's bytes, ``previous`` the digest of the anchor before."""

    seq: int
    hash: str
    at: datetime
    previous: str | None
    note: bytes

    @property
    def digest(self) -> str:
        return sha256(self.note)


def seal(head: audit.Head, at: datetime, previous: Anchor | None, key: SigningKey) -> Anchor:
    """The signed anchor of the entry ``head``."""
    before = None if previous is None else previous.digest
    said = {"seq": head.seq, "hash": head.hash, "at": at.astimezone(UTC).isoformat(), "previous": before}
    payload = canonical(said)
    signature = {"keyid": key.public.key_id, "sig": base64.b64encode(key.sign(_signed(payload))).decode()}
    envelope = {"payload": base64.b64encode(payload).decode(), "payloadType": PAYLOAD_TYPE, "signatures": [signature]}
    return Anchor(head.seq, head.hash, at, before, canonical(envelope))


def unseal(note: bytes, keys: TrustedKeys | None) -> Anchor:
    """The anchor in ``note``, signed by one of ``keys`` (None: not checked). Raises `NotTrusted` with the reason."""
    what = "an anchor of the audit log"
    try:
        envelope = json.loads(note)
        payload, signature = base64.b64decode(envelope["payload"], validate=True), envelope["signatures"][0]
        der, hint = base64.b64decode(signature["sig"], validate=True), str(signature.get("keyid") or "")
        if envelope["payloadType"] != PAYLOAD_TYPE:
            raise NotTrusted(what, f"it is no {PAYLOAD_TYPE}")
        if keys is not None and not any(k.accepts(der, _signed(payload)) for k in keys.candidates(hint, what)):
            raise NotTrusted(what, "its signature does not fit its content and the platform's key")
        said = json.loads(payload)
        seq, its_hash, previous = said["seq"], said["hash"], said["previous"]
        if type(seq) is not int or not isinstance(its_hash, str) or not isinstance(previous, str | None):
            raise NotTrusted(what, "its content is not what an anchor holds")
        return Anchor(seq, its_hash, datetime.fromisoformat(said["at"]), previous, note)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as e:
        raise NotTrusted(what, f"it cannot be read ({type(e).__name__})") from e


def check(
    entries: Iterable[Entry], notes: Iterable[bytes], keys: TrustedKeys | None, start: tuple[int, str] | None = None
) -> AuditReport:
    """What is wrong with the entries or with the anchors in ``notes`` (oldest first), if anything.

    Without ``keys`` signatures are not checked, and the report says so. An entry that is wrong is named before an
    anchor that is.
    """
    good, wrong = _linked(notes, keys)
    report = chain.check(entries, {a.seq: a.hash for a in good}, start or (0, chain.START))
    return replace(report, signatures=keys is not None, problem=report.problem or wrong)


def _linked(notes: Iterable[bytes], keys: TrustedKeys | None) -> tuple[list[Anchor], AuditProblem | None]:
    """The anchors that are good in themselves, and the first that does not follow the one before it."""
    good: list[Anchor] = []
    problem: AuditProblem | None = None
    seq, before = 0, None
    for note in notes:
        try:
            anchor = unseal(note, keys)
        except NotTrusted as e:
            problem = problem or AuditProblem(seq + 1, Tampering.ANCHOR, f"the anchor after entry {seq}: {e.reason}")
            before = sha256(note)
            continue
        if anchor.previous != before or anchor.seq <= seq:
            reason = (
                f"it does not follow the anchor of entry {seq}: one between them is missing"
                if seq
                else ("it names an anchor before it, and there is none: the first ones are missing")
            )
            problem = problem or AuditProblem(anchor.seq, Tampering.ANCHOR, reason)
        seq, before = anchor.seq, anchor.digest
        good.append(anchor)
    return good, problem


def _signed(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


class AnchorLog:
    """The anchors in ``place``. One process adds; none is ever changed or removed."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def notes(self) -> list[bytes]:
        """All anchors as they are stored, oldest first."""
        return [self._read(name) for name in self._names()]

    def last(self) -> Anchor | None:
        """The newest anchor, its signature unchecked; None where there is none yet. Raises `NotTrusted`."""
        names = self._names()
        return unseal(self._read(names[-1]), None) if names else None

    def add(self, anchor: Anchor) -> None:
        """Keep ``anchor``. Raises `Conflict` where one for its entry is there."""
        name = f"{_PREFIX}{anchor.seq:020d}.json"
        if self._place.size(name) is not None:
            raise Conflict(f"the audit log's entry {anchor.seq} has an anchor already")
        self._place.write(name, anchor.note)

    def _names(self) -> list[str]:
        return sorted(found.name for found in self._place.list(_PREFIX) if found.name.endswith(".json"))

    def _read(self, name: str) -> bytes:
        stream = self._place.open(name)
        try:
            return stream.read(_MAX_BYTES)
        finally:
            stream.close()


@dataclass(frozen=True)
class AnchorTerms:
    """An anchor is due ``every`` new entries, and for any new entry after ``every_s`` seconds."""

    every: int = 1000
    every_s: float = 60.0

    def due(self, new: int, waited: timedelta) -> bool:
        """Whether to write one, with ``new`` entries since the last, which was made ``waited`` ago."""
        return new >= self.every or (new > 0 and waited.total_seconds() >= self.every_s)


class Anchorer:
    """Writes anchors when they are due; driven tick by tick. ``read`` runs a query on the record.

    What it vouches for it has checked: entries since the last anchor that do not fit are logged, and not signed.
    """

    def __init__(
        self,
        read: Callable[[Callable[[Connection], Any]], Any],
        kept: AnchorLog,
        key: SigningKey,
        terms: AnchorTerms,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._read, self._log, self._key, self._terms, self._clock = read, kept, key, terms, clock
        self._last: Anchor | None = None
        self._looked = False

    def tick(self, now: bool = False) -> Anchor | None:
        """The anchor that was written, if one was due (or with ``now``, if there is anything new)."""
        if not self._looked:
            self._last, self._looked = self._log.last(), True
        last, head = self._last, self._read(audit.head)
        done, at = (0 if last is None else last.seq), self._clock()
        newest = 0 if head is None else head.seq
        if newest < done:
            log.error("the audit log ends with entry %d, but entry %d was anchored: it was cut", newest, done)
            return None
        waited = timedelta.max if last is None else at - last.at
        if head is None or not (self._terms.due(newest - done, waited) or (now and newest > done)):
            return None
        report = self._read(lambda connection: _since(connection, last))
        if report.problem is not None:
            log.error("no anchor is written: %s", report.problem)
            return None
        made = seal(audit.Head(report.entries, report.last_hash, 0), at, last, self._key)
        self._log.add(made)
        self._last = made
        return made


def _since(connection: Connection, last: Anchor | None) -> AuditReport:
    return audit.check(connection, after=None if last is None else audit.Head(last.seq, last.hash, 0))
