from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from rayplat.artifacts.manifest import canonical
from rayplat.registry import chain
from rayplat.registry.chain import START, Entry
from rayplat.types import AuditReport, Tampering


def entry(seq: int, prev: str, subject: str = "x", key: str | None = None) -> Entry:
    body = chain.encode(seq, 1_000 + seq, ("ann", "model.register", subject, f'{{"n":{seq}}}'), key)
    return Entry(seq, prev, chain.entry_hash(prev, body), body)


def log(n: int = 8) -> list[Entry]:
    found: list[Entry] = []
    for seq in range(1, n + 1):
        found.append(entry(seq, found[-1].hash if found else START))
    return found


def check(entries: list[Entry], known: dict[int, str] | None = None) -> AuditReport:
    return chain.check(entries, known or {})


def renumbered(found: Entry, seq: int) -> Entry:
    body = found.body.replace(b'"seq":%d,' % found.seq, b'"seq":%d,' % seq)
    return found._replace(seq=seq, body=body)


def test_the_body_is_rfc_8785_and_the_hash_is_what_the_text_says() -> None:
    detail = {"b": 0.5, "a": 'é"\\\n'}
    body = chain.encode(3, 17, ("ann", "model.register", 'q"uote', canonical(detail).decode()), "key-1")
    whole = {"actor": "ann", "action": "model.register", "subject": 'q"uote', "at": 17, "seq": 3, "key": "key-1"}
    assert body == canonical({**whole, "detail": detail})


def edited(entries: list[Entry]) -> list[Entry]:
    entries[3] = entries[3]._replace(body=entries[3].body.replace(b"ann", b"eve"))
    return entries


def edited_with_its_hash(entries: list[Entry]) -> list[Entry]:
    entries[3] = entry(4, entries[2].hash, "forged")
    return entries


def removed(entries: list[Entry]) -> list[Entry]:
    return entries[:3] + entries[4:]


def removed_and_renumbered(entries: list[Entry]) -> list[Entry]:
    return entries[:3] + [renumbered(e, e.seq - 1) for e in entries[4:]]


def inserted(entries: list[Entry]) -> list[Entry]:
    forged = entry(4, entries[2].hash, "forged")
    return [*entries[:3], forged, *(renumbered(e, e.seq + 1) for e in entries[3:])]


def inserted_with_a_wrong_hash(entries: list[Entry]) -> list[Entry]:
    forged = entry(4, "f" * 64, "forged")._replace(hash="e" * 64)
    return [*entries[:3], forged, *(renumbered(e, e.seq + 1) for e in entries[3:])]


def doubled(entries: list[Entry]) -> list[Entry]:
    return [*entries[:4], entries[3], *entries[4:]]


def swapped(entries: list[Entry]) -> list[Entry]:
    entries[3], entries[4] = entries[4], entries[3]
    return entries


def swapped_with_their_numbers(entries: list[Entry]) -> list[Entry]:
    entries[3], entries[4] = renumbered(entries[4], 4), renumbered(entries[3], 5)
    return entries


def moved_far(entries: list[Entry]) -> list[Entry]:
    return entries[:3] + entries[4:] + entries[3:4]


def another_previous_hash(entries: list[Entry]) -> list[Entry]:
    entries[3] = entries[3]._replace(prev_hash="0" * 64)
    return entries


@pytest.mark.parametrize(
    ("tamper", "kind"),
    [
        (edited, Tampering.EDITED),
        (edited_with_its_hash, Tampering.EDITED),
        (another_previous_hash, Tampering.EDITED),
        (removed, Tampering.REMOVED),
        (removed_and_renumbered, Tampering.REMOVED),
        (inserted, Tampering.INSERTED),
        (inserted_with_a_wrong_hash, Tampering.INSERTED),
        (doubled, Tampering.INSERTED),
        (swapped, Tampering.REORDERED),
        (swapped_with_their_numbers, Tampering.REORDERED),
        (moved_far, Tampering.REORDERED),
    ],
)
def test_the_first_bad_entry_is_named_with_what_happened(
    tamper: Callable[[list[Entry]], list[Entry]], kind: Tampering
) -> None:
    assert check(log()).intact
    problem = check(tamper(log())).problem
    assert problem is not None
    assert (problem.seq, problem.kind) == (4, kind)


def test_what_the_chain_cannot_tell_anchors_can() -> None:
    entries = log()
    known = {3: entries[2].hash, 7: entries[6].hash}
    assert check(entries, known).anchored_seq == 7
    cut = check(entries[:5], known).problem
    assert cut is not None
    assert (cut.seq, cut.kind) == (6, Tampering.CUT)
    anew = entries[:4]
    for seq in range(5, 9):
        anew.append(entry(seq, anew[-1].hash, "forged"))
    assert check(anew).intact
    problem = check(anew, known).problem
    assert problem is not None
    assert (problem.seq, problem.kind) == (4, Tampering.REWRITTEN)  # 4 is the first that no anchor vouches for


def test_the_first_releases_entries_are_read_but_only_up_to_the_first_new_one() -> None:
    def keyed(seq: int, prev: str, old: bool) -> Entry:
        new, without = (chain.encode(seq, 1, ("a", "b", "c", "{}"), key) for key in (f"k{seq}", None))
        return Entry(seq, prev, chain.entry_hash(prev, without if old else new), new, keyed=True)

    first = keyed(1, START, old=True)
    second = keyed(2, first.hash, old=False)
    assert first.old_body == chain.encode(1, 1, ("a", "b", "c", "{}"), None)
    assert check([first, second]).intact
    late = check([first, second, keyed(3, second.hash, old=True)]).problem
    assert late is not None
    assert (late.seq, late.kind) == (3, Tampering.EDITED)


def test_a_line_of_an_export_holds_the_entry_also_when_it_is_laid_out_anew() -> None:
    original = entry(5, "a" * 64, 'a "quoted",\\"seq\\":9,"subject":"x" é')
    text = chain.line(original)
    assert canonical(json.loads(text)) == text
    assert chain.parse(text) == original
    assert chain.parse(json.dumps(json.loads(text), indent=1).encode()) == original
    for wrong in (b"", b"{}", b"[1]", b'{"body":{"seq":"5"}}', text[:-3], b"x" + text):
        with pytest.raises(ValueError):
            chain.parse(wrong)
