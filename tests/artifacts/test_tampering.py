"""Every tampering of the corpus is refused, before anything of it is used, and named by `verify`."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from rayplat.errors import AlreadyExists, Corrupt, InvalidInput, NotFound, Unavailable
from tests.artifacts.tampering import BIG, CHECKED_OUT, FORGED, PUT, STORED, Stored, size, unrefused


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path)


@pytest.mark.parametrize("name", STORED)
def test_a_tampered_object_is_never_handed_out_and_is_named(stored: Stored, name: str) -> None:
    STORED[name](stored)
    with pytest.raises((Corrupt, NotFound)):
        stored.store.checkout(stored.digest, stored.work / "out")
    assert sorted(p.name for p in stored.work.iterdir() if "out" in p.name) == []
    assert not stored.store.verify(stored.digest).intact
    assert not stored.store.verify().intact


@pytest.mark.parametrize("name", CHECKED_OUT)
def test_a_tampered_folder_is_not_taken_for_the_artifact(stored: Stored, name: str) -> None:
    out = stored.store.checkout(stored.digest, stored.work / "out")
    CHECKED_OUT[name](out, stored.work / "aside")
    with pytest.raises(AlreadyExists, match="is not exactly this artifact"):
        stored.store.checkout(stored.digest, out)


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_manifest_writes_nothing_anywhere(stored: Stored, name: str) -> None:
    digest = stored.store.put_bytes(FORGED[name], "model").digest
    before = sorted(str(p) for p in stored.work.rglob("*"))
    with pytest.raises((InvalidInput, Corrupt)):
        stored.store.checkout(digest, stored.work / "out")
    assert sorted(str(p) for p in stored.work.rglob("*")) == before


@pytest.mark.parametrize("name", PUT)
def test_what_no_tree_may_hold_is_refused_before_anything_is_stored(stored: Stored, name: str) -> None:
    PUT[name](stored.work / "source")
    (stored.work / "source" / "new").write_bytes(b"new")
    with pytest.raises(InvalidInput):
        stored.store.put_tree(stored.work / "source", "model")
    assert not stored.store.exists("sha256:" + hashlib.sha256(b"new").hexdigest())


def test_the_corpus_as_the_benchmark_counts_it(tmp_path: Path) -> None:
    assert unrefused(tmp_path) == []
    assert size() > 70


def test_a_tampered_partial_checkout_is_not_trusted(stored: Stored) -> None:
    """Somebody prepares the folder in which a checkout grows."""
    part = stored.work / f".out.{stored.digest[7:23]}.part"
    outside = stored.work / "outside"
    outside.mkdir()
    (outside / "small").write_text("mine")
    for plant in (
        lambda: (part / "below").symlink_to(outside),
        lambda: (part / "big").symlink_to(outside / "new"),
        lambda: os.link(outside / "small", part / "big"),
        lambda: (part / "big").mkdir(),
        lambda: (part / "extra").write_text("x"),
    ):
        part.mkdir()
        plant()
        out = stored.store.checkout(stored.digest, stored.work / "out")
        assert (out / "big").read_bytes() == BIG
        assert sorted(p.name for p in out.iterdir()) == ["below", "big"]
        assert [p.name for p in outside.iterdir()] == ["small"]
        assert (outside / "small").read_text() == "mine"
        out.rename(stored.work / f"done-{len(list(stored.work.iterdir()))}")


def test_a_store_never_writes_through_a_link(stored: Stored) -> None:
    outside = stored.work / "outside"
    outside.mkdir()
    digest = "sha256:" + hashlib.sha256(b"new").hexdigest()
    folder = stored.object(digest).parent.parent
    if folder.exists():
        folder.rename(stored.work / "aside")
    folder.symlink_to(outside)
    with pytest.raises(Unavailable, match="cannot be written"):
        stored.store.put_bytes(b"new", "note")
    assert list(outside.iterdir()) == []
