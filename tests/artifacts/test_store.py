"""The contract of the store on a folder and in memory, and what only a folder has to promise."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from pathlib import Path

import pytest

from rayplat.artifacts.leases import Timing
from rayplat.artifacts.manifest import sha256
from rayplat.artifacts.places import batch
from rayplat.artifacts.places.folder import FolderPlace
from rayplat.artifacts.places.place import place_at
from rayplat.artifacts.store import ArtifactStore
from rayplat.errors import InvalidInput, Unavailable
from rayplat.settings import Settings
from tests.artifacts.memory import MemoryPlace
from tests.artifacts.store_contract import StoreContract, make_tree


class TestFolder(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ArtifactStore:  # type: ignore[override]
        return ArtifactStore(tmp_path / "store")


class TestMemory(StoreContract):
    @pytest.fixture
    def store(self) -> ArtifactStore:  # type: ignore[override]
        return ArtifactStore.on(MemoryPlace(), Timing())


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def objects(tmp_path: Path) -> list[Path]:
    return [p for p in (tmp_path / "store" / "objects").rglob("*") if p.is_file()]


def test_objects_are_read_only_written_once_and_leave_no_temporary_files(store: ArtifactStore, tmp_path: Path) -> None:
    store.put_bytes(b"hello", "note")
    (only,) = objects(tmp_path)
    before = only.stat().st_ino
    store.put_bytes(b"hello", "note")
    ArtifactStore(tmp_path / "store").put_bytes(b"hello", "note")
    assert only.stat().st_ino == before
    assert stat.S_IMODE(only.stat().st_mode) == 0o444
    assert only.relative_to(tmp_path / "store").parts[:2] == ("objects", "sha256")
    assert list((tmp_path / "store" / "tmp").iterdir()) == []


def test_a_flipped_bit_of_the_same_size_is_healed_by_the_next_put(store: ArtifactStore, tmp_path: Path) -> None:
    ref = store.put_bytes(b"hello", "note")
    (only,) = objects(tmp_path)
    only.chmod(0o644)
    only.write_bytes(b"hellO")
    assert store.put_bytes(b"hello", "note").new_bytes == 5
    assert store.get_bytes(ref.digest) == b"hello"


def test_a_crash_while_writing_leaves_no_object(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(_: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", dies)
        with pytest.raises(KeyboardInterrupt):
            store.put_bytes(b"hello", "note")
    (tmp_path / "store" / "tmp" / "left-by-a-killed-process").write_bytes(b"hello")
    assert objects(tmp_path) == []
    assert not store.exists(sha256(b"hello"))
    assert store.get_bytes(store.put_bytes(b"hello", "note").digest) == b"hello"


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (errno.ENOSPC, "No space left on device; free some space and repeat"),
        (errno.EROFS, "Read-only file system; give this process access"),
        (errno.EIO, "Input/output error; check that the disk"),
    ],
)
def test_a_disk_that_fails_is_one_clear_error(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, text: str
) -> None:
    def fails(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(Unavailable, match=text):
        store.put_bytes(b"hello", "note")
    assert objects(tmp_path) == []


def test_a_full_disk_in_the_middle_of_a_large_tree_leaves_what_was_complete(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for n in range(20):
        (tree / f"{n:02}").write_bytes(bytes([n]) * 100)
    monkeypatch.setattr(batch, "_MOST_FILES", 5)
    real, calls = batch.syncfs(), []

    def full(handle: int) -> int:
        calls.append(handle)
        if len(calls) > 2:
            ctypes.set_errno(errno.ENOSPC)
            return -1
        return 0 if real is None else real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(batch, "_FEW", 2)
        patch.setattr(batch, "syncfs", lambda: full)
        with pytest.raises(Unavailable, match="No space left on device"):
            store.put_tree(tree, "model")
    assert len(objects(tmp_path)) == 5
    assert list((tmp_path / "store" / "tmp").iterdir()) == []
    assert store.put_tree(tree, "model").new_bytes == 1500


def test_a_root_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="cannot be written"):
        ArtifactStore(tmp_path / "file" / "store")


def test_a_root_that_vanishes_is_one_clear_error(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    with pytest.raises(Unavailable, match="cannot be written"):
        store.put_bytes(b"hello", "note")


def test_a_checkout_that_finds_no_room_says_so(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = store.put_tree(make_tree(tmp_path / "model"), "model")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fchmod", full)
        with pytest.raises(Unavailable, match="No space left on device; make room"):
            store.checkout(ref.digest, tmp_path / "m")
    assert not (tmp_path / "m").exists()
    assert store.verify(ref.digest).intact
    assert store.put_tree(store.checkout(ref.digest, tmp_path / "m"), "model") == ref


@pytest.mark.parametrize(
    "root", ["http://host/x", "s3://", "s3://key:secret@bucket/x", "s3://b/x?y=1", "file://host/x"]
)
def test_addresses_that_are_no_place_are_refused(root: str) -> None:
    with pytest.raises(InvalidInput, match=r"artifacts\.root"):
        place_at(root)


def test_settings_name_a_folder_or_a_bucket(settings: Settings, tmp_path: Path) -> None:
    assert isinstance(ArtifactStore.of(settings).place, FolderPlace)
    assert place_at(f"file://{tmp_path}/a%20b").root == tmp_path / "a b"  # type: ignore[attr-defined]
    on_s3 = settings.model_copy(update={"artifacts": settings.artifacts.model_copy(update={"root": "s3://bucket/x"})})
    assert on_s3.artifacts_root == "s3://bucket/x"
    assert not isinstance(ArtifactStore.of(on_s3).place, FolderPlace)
