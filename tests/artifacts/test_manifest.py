"""Canonical JSON, and what a manifest may hold."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from rayplat.artifacts.manifest import PREFIX, Entry, Manifest, build, canonical, check_path, decode
from rayplat.errors import InvalidInput

DIGEST = "sha256:" + "0" * 64
RFC_8785_SORTED = '{"\\r":2,"1":4,"\x80":6,"ö":7,"\u20ac":1,"\U0001f600":5,"\ufb33":3}'  # its section 3.2.3


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (1.0, "1"),
        (-1.5, "-1.5"),
        (4.50, "4.5"),
        (2e-3, "0.002"),
        (1e-6, "0.000001"),
        (0.000000000000000000000000001, "1e-27"),
        (1e-7, "1e-7"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (1e30, "1e+30"),
        (333333333.33333329, "333333333.3333333"),
        (5e-324, "5e-324"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
        (9007199254740992, "9007199254740992"),
        ({"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\x80": 6, "ö": 7}, RFC_8785_SORTED),
        ({"b": [True, None, "é\n\u20ac"], "a": {}}, '{"a":{},"b":[true,null,"é\\n€"]}'),
    ],
)
def test_canonical_json_is_that_of_rfc_8785(value: object, text: str) -> None:
    assert canonical(value).decode() == text


@pytest.mark.parametrize("value", [math.nan, math.inf, 2**53 + 1, {1: 2}, {"\ud800": 1}, b"x", {"a": {1, 2}}, "\ud800"])
def test_canonical_json_refuses_what_has_no_canonical_form(value: object) -> None:
    with pytest.raises(InvalidInput):
        canonical(value)


@pytest.mark.parametrize(
    "path", ["", "/a", "../a", "a/../b", "a//b", "./a", "a/", "a\\b", "a\0b", "a\nb", "e\u0301", "\udcff"]
)
def test_a_path_that_some_disk_cannot_hold_is_refused(path: str) -> None:
    with pytest.raises(InvalidInput, match="path in tree"):
        check_path(path)


@pytest.mark.parametrize("paths", [["a", "A"], ["a/x", "A/y"], ["ß", "ss"], ["a", "a/b"], ["a", "a"]])
def test_paths_that_clash_are_refused(paths: list[str]) -> None:
    with pytest.raises(InvalidInput, match=r"clashes|twice"):
        build("model", [Entry(p, 0, DIGEST) for p in paths])


def test_a_manifest_survives_its_bytes_and_does_not_depend_on_order() -> None:
    entries = [Entry("b", 1, DIGEST), Entry("a/é", 2, DIGEST, executable=True)]
    one, other = build("model", entries), build("model", reversed(entries))
    assert one == other == decode(one.encode())
    assert one.size_bytes == 3
    assert build("data", entries).encode() != one.encode()


def test_what_is_no_manifest_is_refused() -> None:
    escaping = Manifest("model", (Entry("../../etc/x", 0, DIGEST),)).encode()
    loose = build("model", [Entry("a", 0, DIGEST)]).encode() + b" "
    for content in (escaping, loose, b"{}", b"[1]", b"\xff", b'{"v":2,"kind":"m","entries":[]}', b"PK\x03\x04"):
        with pytest.raises(InvalidInput):
            decode(content)


GOOD: dict[str, Any] = {"path": "a", "size": 1, "digest": DIGEST, "executable": False}


@pytest.mark.parametrize(
    "change",
    [
        {"size": -1},
        {"size": 2**53 + 1},
        {"size": True},
        {"size": "1"},
        {"size": None},
        {"executable": 1},
        {"executable": None},
        {"digest": DIGEST.upper()},
        {"digest": None},
        {"path": 1},
        {"path": "../a"},
        {"path": "/a"},
        {"path": "a\\b"},
        {"mode": 0o777},
        {"entries": []},
    ],
)
def test_a_forged_entry_is_refused(change: dict[str, Any]) -> None:
    entries = [{**GOOD, **change}]
    forged = json.dumps({"entries": entries, "kind": "model", "v": 1}, separators=(",", ":"), sort_keys=True)
    with pytest.raises(InvalidInput):
        decode(forged.encode())


@pytest.mark.parametrize(
    "change",
    [{"v": 2}, {"v": True}, {"v": 1.0}, {"v": "1"}, {"kind": ""}, {"kind": None}, {"kind": 3}, {"extra": 1}],
)
def test_a_forged_manifest_is_refused(change: dict[str, Any]) -> None:
    forged = json.dumps({"entries": [GOOD], "kind": "model", "v": 1, **change}, separators=(",", ":"), sort_keys=True)
    with pytest.raises(InvalidInput):
        decode(forged.encode())


def test_other_forms_of_the_same_tree_are_refused() -> None:
    good = build("model", [Entry("a", 1, DIGEST), Entry("b", 1, DIGEST)])
    content = good.encode()
    assert decode(content) == good
    assert content.startswith(PREFIX)
    swapped = Manifest("model", tuple(reversed(good.entries))).encode()
    twice = content.replace(b'"kind":"model"', b'"kind":"x","kind":"model"')
    deep = b'{"entries":' + b"[" * 100_000
    for forged in (
        swapped,
        twice,
        deep,
        b"\xef\xbb\xbf" + content,
        content + b"\n",
        content.replace(b'"size":1', b'"size":1e0'),
    ):
        with pytest.raises(InvalidInput):
            decode(forged)
