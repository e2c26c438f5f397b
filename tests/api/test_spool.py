"""Uploads in parts: they go on where they ended, and nothing of one sender meets another's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rayplat.errors import Conflict, InvalidInput, TooLarge
from rayplat.services.spool import MOST_BYTES, Spool

DIGEST = "sha256:" + "a" * 64


def test_parts_make_a_file(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "uploads")
    assert spool.received("ada", DIGEST) == 0
    assert spool.append("ada", DIGEST, 0, 6, b"abc") is None
    assert spool.received("ada", DIGEST) == 3
    file = spool.append("ada", DIGEST, 3, 6, b"def")
    assert file is not None
    assert file.read_bytes() == b"abcdef"
    spool.forget("ada", DIGEST)
    assert spool.received("ada", DIGEST) == 0


def test_an_empty_file(tmp_path: Path) -> None:
    file = Spool(tmp_path).append("ada", DIGEST, 0, 0, b"")
    assert file is not None
    assert file.read_bytes() == b""


def test_senders_do_not_meet(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append("ada", DIGEST, 0, 6, b"abc")
    assert spool.received("bob", DIGEST) == 0
    with pytest.raises(Conflict, match=r"0 bytes of .* are here"):
        spool.append("bob", DIGEST, 3, 6, b"def")


def test_a_part_elsewhere_says_where_to_go_on(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append("ada", DIGEST, 0, 6, b"abc")
    with pytest.raises(Conflict, match=r"3 bytes .* not from 0"):
        spool.append("ada", DIGEST, 0, 6, b"abc")
    assert spool.received("ada", DIGEST) == 3


@pytest.mark.parametrize(("offset", "size", "part"), [(-1, 6, b"a"), (5, 6, b"ab"), (0, 6, b""), (0, 2, b"abc")])
def test_what_is_no_part(tmp_path: Path, offset: int, size: int, part: bytes) -> None:
    with pytest.raises(InvalidInput, match="no part of a file"):
        Spool(tmp_path).append("ada", DIGEST, offset, size, part)


def test_limits_and_names(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with pytest.raises(TooLarge):
        spool.append("ada", DIGEST, 0, MOST_BYTES + 1, b"a")
    with pytest.raises(InvalidInput, match="digest"):
        spool.append("ada", "../../etc/passwd", 0, 1, b"a")


def test_what_nobody_continues_is_forgotten(tmp_path: Path) -> None:
    spool = Spool(tmp_path, kept_s=60)
    spool.append("ada", DIGEST, 0, 6, b"abc")
    for file in tmp_path.iterdir():
        os.utime(file, (0, 0))
    spool.append("bob", DIGEST, 0, 6, b"abc")
    assert spool.received("ada", DIGEST) == 0
