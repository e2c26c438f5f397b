from __future__ import annotations

import hashlib
import math
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rayplat.artifacts.manifest import Entry, Manifest, build, canonical, check_path, decode, sha256
from rayplat.artifacts.store import ArtifactStore
from rayplat.errors import AlreadyExists, Corrupt, InvalidInput, NotFound, Unavailable

DIGEST = "sha256:" + "0" * 64


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "weights").mkdir(parents=True)
    (folder / "weights" / "a.bin").write_bytes(b"\x00" * 3000)
    (folder / "rayplat.json").write_text("{}")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    return folder


def objects(store: ArtifactStore) -> list[Path]:
    return [p for p in (store._root / "objects").rglob("*") if p.is_file()]


# --- canonical JSON and manifests -------------------------------------------------------------------


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
        ({"b": [True, None, "é\n\u20ac"], "a": {}}, '{"a":{},"b":[true,null,"é\\n€"]}'),
    ],
)
def test_canonical_json_is_that_of_rfc_8785(value: object, text: str) -> None:
    assert canonical(value).decode() == text


@pytest.mark.parametrize("value", [math.nan, math.inf, 2**53 + 1, {1: 2}, {"é": 1}, b"x", {"a": {1, 2}}, "\ud800"])
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


def test_forged_manifests_are_refused() -> None:
    escaping = Manifest("model", (Entry("../../etc/x", 0, DIGEST),)).encode()
    loose = build("model", [Entry("a", 0, DIGEST)]).encode() + b" "
    for content in (escaping, loose, b"{}", b"[1]", b"\xff", b'{"v":2,"kind":"m","entries":[]}', b"PK\x03\x04"):
        with pytest.raises(InvalidInput):
            decode(content)


# --- objects ----------------------------------------------------------------------------------------


def test_bytes_come_back_by_the_sha256_that_names_them(store: ArtifactStore) -> None:
    ref = store.put_bytes(b"hello", "note")
    assert ref.digest == "sha256:" + hashlib.sha256(b"hello").hexdigest()
    assert (ref.kind, ref.size_bytes) == ("note", 5)
    assert store.exists(ref.digest)
    assert store.get_bytes(ref.digest) == b"hello"


def test_objects_are_read_only_written_once_and_leave_no_temporary_files(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"hello")
    refs = {store.put_bytes(b"hello", "note"), store.put_file(tmp_path / "f", "note")}
    assert len(refs) == 1
    (only,) = objects(store)
    before = only.stat().st_ino
    store.put_bytes(b"hello", "note")
    assert only.stat().st_ino == before
    assert stat.S_IMODE(only.stat().st_mode) == 0o444
    assert list((store._root / "tmp").iterdir()) == []


def test_absent_objects_and_bad_digests_are_told_apart(store: ArtifactStore) -> None:
    assert not store.exists(DIGEST)
    with pytest.raises(NotFound, match="artifact"):
        store.get_bytes(DIGEST)
    for bad in ("sha256:xyz", "md5:" + "0" * 64, "../../x", ""):
        with pytest.raises(InvalidInput):
            store.get_bytes(bad)
    with pytest.raises(NotFound, match="file"):
        store.put_file(store._root / "absent", "note")
    with pytest.raises(NotFound, match="folder"):
        store.put_tree(store._root / "absent", "model")


def test_a_damaged_object_is_never_handed_out_and_is_healed_by_the_next_put(store: ArtifactStore) -> None:
    ref = store.put_bytes(b"hello", "note")
    (only,) = objects(store)
    only.chmod(0o644)
    only.write_bytes(b"hellO")
    with pytest.raises(Corrupt, match="was not used"):
        store.get_bytes(ref.digest)
    store.put_bytes(b"hello", "note")
    assert store.get_bytes(ref.digest) == b"hello"


def test_a_crash_while_writing_leaves_no_object(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(_: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", dies)
        with pytest.raises(KeyboardInterrupt):
            store.put_bytes(b"hello", "note")
    (store._root / "tmp" / "left-by-a-killed-process").write_bytes(b"hello")
    assert objects(store) == []
    assert not store.exists(sha256(b"hello"))
    assert store.get_bytes(store.put_bytes(b"hello", "note").digest) == b"hello"


def test_a_full_disk_is_one_clear_error(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unavailable, match="No space left on device"):
        store.put_bytes(b"hello", "note")


def test_a_root_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="cannot be written"):
        ArtifactStore(tmp_path / "file" / "store")


# --- trees ------------------------------------------------------------------------------------------


def test_a_tree_comes_back_byte_for_byte(store: ArtifactStore, tree: Path, tmp_path: Path) -> None:
    ref = store.put_tree(tree, "model")
    assert ref.size_bytes == 3000 + 2 + 10
    assert [e.path for e in store.manifest(ref.digest).entries] == ["rayplat.json", "run.sh", "weights/a.bin"]
    out = store.checkout(ref.digest, tmp_path / "cache" / "m")
    assert (out / "weights" / "a.bin").read_bytes() == b"\x00" * 3000
    assert stat.S_IMODE((out / "run.sh").stat().st_mode) == 0o555
    assert store.put_tree(out, "model").digest == ref.digest
    assert [p.name for p in out.parent.iterdir()] == ["m"]


def test_equal_trees_have_one_digest_and_any_change_another(store: ArtifactStore, tree: Path) -> None:
    digests = {store.put_tree(tree, "model").digest, store.put_tree(tree, "model").digest}
    assert len(digests) == 1
    (tree / "rayplat.json").rename(tree / "other.json")
    digests.add(store.put_tree(tree, "model").digest)
    (tree / "run.sh").chmod(0o644)
    digests.add(store.put_tree(tree, "model").digest)
    (tree / "weights" / "a.bin").write_bytes(b"\x00" * 2999 + b"\x01")
    digests.add(store.put_tree(tree, "model").digest)
    assert len(digests) == 4


def test_links_devices_and_empty_trees_are_refused(store: ArtifactStore, tree: Path, tmp_path: Path) -> None:
    (tree / "link").symlink_to("/etc/passwd")
    with pytest.raises(InvalidInput, match="'link' is a link or a device"):
        store.put_tree(tree, "model")
    with pytest.raises(InvalidInput, match="regular file"):
        store.put_file(tree / "link", "note")
    (tree / "link").unlink()
    os.mkfifo(tree / "pipe")
    with pytest.raises(InvalidInput, match="'pipe' is a link or a device"):
        store.put_tree(tree, "model")
    with pytest.raises(InvalidInput, match="device"):
        store.put_file(tree / "pipe", "note")
    (tree / "pipe").unlink()
    (tree / "RUN.sh").write_text("")
    with pytest.raises(InvalidInput, match="clashes"):
        store.put_tree(tree, "model")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match="no file"):
        store.put_tree(tmp_path / "empty", "model")
    with pytest.raises(InvalidInput, match="no tree"):
        store.manifest(store.put_bytes(b"hello", "note").digest)


def test_checkout_again_verifies_and_refuses_a_changed_folder(store: ArtifactStore, tree: Path, tmp_path: Path) -> None:
    ref, out = store.put_tree(tree, "model"), tmp_path / "m"
    store.checkout(ref.digest, out)
    assert store.checkout(ref.digest, out) == out
    (out / "rayplat.json").chmod(0o644)
    (out / "rayplat.json").write_text("[]")
    with pytest.raises(AlreadyExists, match="not exactly this artifact"):
        store.checkout(ref.digest, out)
    (out / "rayplat.json").write_text("{}")
    (out / "extra").write_text("")
    with pytest.raises(AlreadyExists):
        store.checkout(ref.digest, out)
    assert (out / "extra").exists()
    with pytest.raises(AlreadyExists):
        store.checkout(ref.digest, tree / "run.sh")


def test_checkout_of_a_damaged_file_leaves_nothing_behind(store: ArtifactStore, tree: Path, tmp_path: Path) -> None:
    ref = store.put_tree(tree, "model")
    damaged = store._path(sha256(b"\x00" * 3000))
    damaged.chmod(0o644)
    damaged.write_bytes(b"\x00" * 2999 + b"\x01")
    (tmp_path / "cache").mkdir()
    with pytest.raises(Corrupt, match=r"weights/a\.bin"):
        store.checkout(ref.digest, tmp_path / "cache" / "m")
    assert list((tmp_path / "cache").iterdir()) == []


def test_writers_and_checkouts_at_once_end_in_one_sound_tree(store: ArtifactStore, tree: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        refs = list(pool.map(lambda _: store.put_tree(tree, "model"), range(16)))
        outs = list(pool.map(lambda r: store.checkout(r.digest, tmp_path / "m"), refs))
    assert len(set(refs)) == len(set(outs)) == 1
    assert store.put_tree(outs[0], "model") == refs[0]
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".part")] == []
