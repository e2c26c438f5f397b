"""What every store promises, whatever its objects lie on. Subclasses give the fixture ``store``, empty each time."""

from __future__ import annotations

import hashlib
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from rayplat.artifacts.gc import gc
from rayplat.artifacts.leases import Timing
from rayplat.artifacts.manifest import sha256
from rayplat.artifacts.places.place import LEASES, OBJECTS, SWEEPS, TEMPORARY, UPLOADS, Place, object_name
from rayplat.artifacts.store import ArtifactStore
from rayplat.errors import AlreadyExists, Corrupt, InvalidInput, NotFound

DIGEST = "sha256:" + "0" * 64
BIG = 5 << 20  # more than a place holds in memory at once


def make_tree(folder: Path) -> Path:
    """Three files: one of 3,000 zeros in a folder below, one of JSON, one executable."""
    (folder / "weights").mkdir(parents=True)
    (folder / "weights" / "a.bin").write_bytes(b"\x00" * 3000)
    (folder / "rayplat.json").write_text("{}")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    return folder


def names(place: Place, prefix: str) -> list[str]:
    return sorted(entry.name for entry in place.list(prefix))


def overwrite(place: Place, digest: str, content: bytes) -> None:
    """Damage an object, as a bad disk or a bad neighbour does."""
    place.write(object_name(digest), content)


class StoreContract:
    """Runs on a folder, in memory (`test_store`) and on S3 (`test_s3`)."""

    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        return make_tree(tmp_path / "model")

    def test_bytes_come_back_by_the_sha256_that_names_them(self, store: ArtifactStore) -> None:
        ref = store.put_bytes(b"hello", "note")
        assert ref.digest == "sha256:" + hashlib.sha256(b"hello").hexdigest()
        assert (ref.kind, ref.size_bytes, ref.new_bytes) == ("note", 5, 5)
        assert store.exists(ref.digest)
        assert store.get_bytes(ref.digest) == b"hello"
        assert store.get_bytes(store.put_bytes(b"", "note").digest) == b""

    def test_identical_content_is_stored_once(self, store: ArtifactStore, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(b"hello")
        first = store.put_bytes(b"hello", "note")
        again = [store.put_bytes(b"hello", "note"), store.put_file(tmp_path / "f", "note")]
        assert again == [first, first]
        assert [ref.new_bytes for ref in again] == [0, 0]
        assert names(store.place, OBJECTS) == [object_name(first.digest)]

    def test_the_same_tree_again_writes_no_payload_byte(self, store: ArtifactStore, tree: Path) -> None:
        (tree / "copy.bin").write_bytes(b"\x00" * 3000)
        first, second = store.put_tree(tree, "model"), store.put_tree(tree, "model")
        assert first == second
        assert (first.size_bytes, first.new_bytes, second.new_bytes) == (6012, 3012, 0)
        assert len(names(store.place, OBJECTS)) == 4

    def test_a_large_file_goes_in_and_out_in_pieces(self, store: ArtifactStore, tmp_path: Path) -> None:
        content = os.urandom(1 << 20) * 5 + b"tail"
        (tmp_path / "big").write_bytes(content)
        ref = store.put_file(tmp_path / "big", "model")
        assert (ref.size_bytes, ref.new_bytes) == (BIG + 4, BIG + 4)
        assert max(len(chunk) for chunk in store.chunks(ref.digest)) <= 1 << 20
        assert store.get_file(ref.digest, tmp_path / "out" / "copy").read_bytes() == content
        assert store.put_file(tmp_path / "big", "model").new_bytes == 0

    def test_absent_objects_and_bad_digests_are_told_apart(self, store: ArtifactStore, tmp_path: Path) -> None:
        assert not store.exists(DIGEST)
        for ask in (store.get_bytes, store.touch, store.manifest):
            with pytest.raises(NotFound, match="artifact"):
                ask(DIGEST)
            for bad in ("sha256:xyz", "md5:" + "0" * 64, "../../x", "", "sha256:" + "A" * 64):
                with pytest.raises(InvalidInput):
                    ask(bad)
        for get in (store.checkout, store.get_file):
            with pytest.raises(NotFound, match="artifact"):
                get(DIGEST, tmp_path / "x")
        with pytest.raises(NotFound, match="file"):
            store.put_file(tmp_path / "absent", "note")
        with pytest.raises(NotFound, match="folder"):
            store.put_tree(tmp_path / "absent", "model")
        assert sorted(p.name for p in tmp_path.iterdir() if p.name == "x") == []

    def test_a_damaged_object_is_never_handed_out(self, store: ArtifactStore, tmp_path: Path) -> None:
        ref = store.put_bytes(b"hello", "note")
        overwrite(store.place, ref.digest, b"hellO")
        with pytest.raises(Corrupt, match="was not used"):
            store.get_bytes(ref.digest)
        with pytest.raises(Corrupt):
            store.get_file(ref.digest, tmp_path / "out" / "copy")
        assert list((tmp_path / "out").iterdir()) == []
        assert [p.digest for p in store.verify(ref.digest).problems] == [ref.digest]

    def test_an_object_of_the_wrong_size_is_healed_by_the_next_put(self, store: ArtifactStore) -> None:
        ref = store.put_bytes(b"hello", "note")
        overwrite(store.place, ref.digest, b"hell")
        assert store.put_bytes(b"hello", "note").new_bytes == 5
        assert store.get_bytes(ref.digest) == b"hello"

    def test_get_file_keeps_what_is_right_and_refuses_what_is_not(self, store: ArtifactStore, tmp_path: Path) -> None:
        ref, out = store.put_bytes(b"hello", "note"), tmp_path / "f"
        assert store.get_file(ref.digest, out) == store.get_file(ref.digest, out) == out
        out.write_bytes(b"other")
        with pytest.raises(AlreadyExists, match="is not this artifact"):
            store.get_file(ref.digest, out)
        assert out.read_bytes() == b"other"
        (tmp_path / "link").symlink_to(tmp_path / "nowhere")
        with pytest.raises(AlreadyExists):
            store.get_file(ref.digest, tmp_path / "link")

    def test_a_tree_comes_back_byte_for_byte(self, store: ArtifactStore, tree: Path, tmp_path: Path) -> None:
        ref = store.put_tree(tree, "model")
        assert ref.size_bytes == 3000 + 2 + 10
        assert [e.path for e in store.manifest(ref.digest).entries] == ["rayplat.json", "run.sh", "weights/a.bin"]
        out = store.checkout(ref.digest, tmp_path / "cache" / "m")
        assert (out / "weights" / "a.bin").read_bytes() == b"\x00" * 3000
        assert stat.S_IMODE((out / "run.sh").stat().st_mode) == 0o555
        assert stat.S_IMODE((out / "rayplat.json").stat().st_mode) == 0o444
        assert store.put_tree(out, "model").digest == ref.digest
        assert [p.name for p in out.parent.iterdir()] == ["m"]

    def test_equal_trees_have_one_digest_and_any_change_another(self, store: ArtifactStore, tree: Path) -> None:
        digests = {store.put_tree(tree, "model").digest, store.put_tree(tree, "model").digest}
        assert len(digests) == 1
        digests.add(store.put_tree(tree, "plot").digest)
        (tree / "rayplat.json").rename(tree / "other.json")
        digests.add(store.put_tree(tree, "model").digest)
        (tree / "run.sh").chmod(0o644)
        digests.add(store.put_tree(tree, "model").digest)
        (tree / "weights" / "a.bin").write_bytes(b"\x00" * 2999 + b"\x01")
        digests.add(store.put_tree(tree, "model").digest)
        assert len(digests) == 5

    def test_an_interrupted_put_goes_on_where_it_was(
        self, store: ArtifactStore, tree: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real, place = store.place.add, store.place
        with monkeypatch.context() as patch:

            def stops(sources: object, keep: object) -> object:
                real(list(sources)[:2], keep)  # type: ignore[call-overload,arg-type]
                raise KeyboardInterrupt

            patch.setattr(place, "add", stops)
            with pytest.raises(KeyboardInterrupt):
                store.put_tree(tree, "model")
        assert store.put_tree(tree, "model").new_bytes == 3000
        assert names(place, LEASES) == []

    def test_an_interrupted_checkout_goes_on_with_its_sound_files(
        self, store: ArtifactStore, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ref, out = store.put_tree(tree, "model"), tmp_path / "m"
        opened, real = [], store.place.open
        with monkeypatch.context() as patch:

            def stops(name: str) -> object:
                if sha256(b"\x00" * 3000)[7:] in name:
                    raise KeyboardInterrupt
                return real(name)

            patch.setattr(store.place, "open", stops)
            with pytest.raises(KeyboardInterrupt):
                store.checkout(ref.digest, out)
        assert not out.exists()
        (part,) = tmp_path.glob(".m.*.part")
        kept = (part / "run.sh").stat().st_ino
        (part / "rayplat.json").chmod(0o644)
        (part / "rayplat.json").write_text("[]")  # half written
        (part / "weights" / "stray").write_text("")
        monkeypatch.setattr(store.place, "open", lambda name: opened.append(name) or real(name))
        store.checkout(ref.digest, out)
        assert (out / "run.sh").stat().st_ino == kept
        assert sorted(opened) == sorted(object_name(d) for d in (ref.digest, sha256(b"{}"), sha256(b"\x00" * 3000)))
        assert store.checkout(ref.digest, out) == out

    def test_checkout_again_verifies_and_refuses_a_changed_folder(
        self, store: ArtifactStore, tree: Path, tmp_path: Path
    ) -> None:
        ref, out = store.put_tree(tree, "model"), tmp_path / "m"
        store.checkout(ref.digest, out)
        assert store.checkout(ref.digest, out) == out
        (out / "rayplat.json").chmod(0o644)
        (out / "rayplat.json").write_text("[]")
        with pytest.raises(AlreadyExists, match="not exactly this artifact"):
            store.checkout(ref.digest, out)
        (out / "rayplat.json").write_text("{}")
        assert store.checkout(ref.digest, out) == out
        for extra in ("extra", "weights/extra"):
            (out / extra).write_text("")
            with pytest.raises(AlreadyExists):
                store.checkout(ref.digest, out)
            assert (out / extra).exists()
            (out / extra).unlink()
        (out / "folder").mkdir()
        with pytest.raises(AlreadyExists):
            store.checkout(ref.digest, out)
        with pytest.raises(AlreadyExists):
            store.checkout(ref.digest, tree / "run.sh")

    def test_checkout_of_a_damaged_file_leaves_nothing_behind(
        self, store: ArtifactStore, tree: Path, tmp_path: Path
    ) -> None:
        ref = store.put_tree(tree, "model")
        overwrite(store.place, sha256(b"\x00" * 3000), b"\x00" * 2999 + b"\x01")
        (tmp_path / "cache").mkdir()
        with pytest.raises(Corrupt, match=r"weights/a\.bin"):
            store.checkout(ref.digest, tmp_path / "cache" / "m")
        assert list((tmp_path / "cache").iterdir()) == []

    def test_writers_and_checkouts_at_once_end_in_one_sound_tree(
        self, store: ArtifactStore, tree: Path, tmp_path: Path
    ) -> None:
        with ThreadPoolExecutor(8) as pool:
            refs = list(pool.map(lambda _: store.put_tree(tree, "model"), range(12)))
            outs = list(pool.map(lambda r: store.checkout(r.digest, tmp_path / "m"), refs))
        assert len(set(refs)) == len(set(outs)) == 1
        assert store.put_tree(outs[0], "model") == refs[0]
        assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".part")] == []
        assert names(store.place, LEASES) == names(store.place, TEMPORARY) == []

    def test_verify_names_what_is_damaged_or_missing(self, store: ArtifactStore, tree: Path) -> None:
        ref, other = store.put_tree(tree, "model"), store.put_bytes(b"other", "note")
        sound = store.verify()
        assert (sound.objects, sound.size_bytes, sound.intact) == (5, 3017 + len(store.get_bytes(ref.digest)), True)
        assert store.verify(ref.digest).objects == 4
        overwrite(store.place, sha256(b"{}"), b"[]")
        store.place.delete(object_name(sha256(b"\x00" * 3000)))
        for report in (store.verify(ref.digest), store.verify()):
            found = {
                (p.digest, p.path or "rayplat.json"): p.reason.split(",")[0].split(":")[0] for p in report.problems
            }
            assert found == {
                (sha256(b"{}"), "rayplat.json"): "damaged",
                (sha256(b"\x00" * 3000), "weights/a.bin"): "missing",
            }
        assert store.verify(other.digest).intact
        assert [p.reason for p in store.verify(DIGEST).problems] == ["missing"]
        with pytest.raises(NotFound, match="is gone"):
            store.touch(ref.digest)

    def test_garbage_goes_in_two_phases_and_what_is_needed_stays(self, store: ArtifactStore, tree: Path) -> None:
        now = [1_000_000.0]
        store = ArtifactStore.on(store.place, replaced(store, now))
        kept, gone = store.put_tree(tree, "model"), store.put_bytes(b"scratch", "note")
        (tree / "rayplat.json").write_text("[]")
        old = store.put_tree(tree, "model")  # shares files with the one that is kept
        roots, hour = (lambda: {"pin": {kept.digest}}), timedelta(hours=1)
        assert gc(store, roots, hour, dry_run=False).condemned == ()  # all is young
        now[0] += 3601
        needless = tuple(sorted((old.digest, gone.digest, sha256(b"[]"))))
        assert gc(store, roots, hour).condemned == needless
        first = gc(store, roots, hour, dry_run=False)
        assert (first.condemned, first.deleted, first.by_root["pin"] > 3000) == (needless, (), True)
        now[0] += 3599
        assert gc(store, roots, hour, dry_run=False).waiting == 3
        now[0] += 2
        assert gc(store, roots, hour).deleted == needless
        assert store.exists(gone.digest)  # that was a dry run
        last = gc(store, roots, hour, dry_run=False)
        assert (last.deleted, last.kept, last.complete) == (needless, 4, True)
        assert store.verify().intact
        assert store.verify(kept.digest).intact
        assert [store.exists(d) for d in needless] == [False] * 3
        assert names(store.place, UPLOADS) == names(store.place, SWEEPS) == names(store.place, LEASES) == []

    def test_what_is_published_again_is_no_longer_condemned(self, store: ArtifactStore, tree: Path) -> None:
        now, hour = [1_000_000.0], timedelta(hours=1)
        store = ArtifactStore.on(store.place, replaced(store, now))
        ref, note = store.put_tree(tree, "model"), store.put_bytes(b"x", "note")
        now[0] += 3601
        assert len(gc(store, dict, hour, dry_run=False).condemned) == 5
        now[0] += 3600
        store.touch(ref.digest)
        assert gc(store, dict, hour, dry_run=False).deleted == (note.digest,)
        now[0] += 3601  # the upload is old again: it has a whole grace before it
        assert len(gc(store, dict, hour, dry_run=False).condemned) == 4
        assert store.verify(ref.digest).intact
        now[0] += 3601
        assert len(gc(store, dict, hour, dry_run=False).deleted) == 4

    def test_references_of_mlflow_are_roots(self, store: ArtifactStore) -> None:
        now = [1_000_000.0]
        store = ArtifactStore.on(store.place, replaced(store, now))
        kept, gone = store.put_bytes(b"kept", "file"), store.put_bytes(b"gone", "file")
        store.place.write("refs/1/run/artifacts/a.txt", b'{"digest":"%s","size":4}' % kept.digest.encode())
        store.place.write("refs/1/run/artifacts/sub/.folder", b"{}")
        now[0] += 10
        assert gc(store, dict, timedelta(0), dry_run=False).condemned == (gone.digest,)
        assert gc(store, dict, timedelta(0), dry_run=False).deleted == (gone.digest,)
        assert (store.exists(gone.digest), store.exists(kept.digest)) == (False, True)
        store.place.write("refs/1/run/artifacts/b.txt", b"no json")
        with pytest.raises(Corrupt, match=r"b\.txt"):
            gc(store, dict, timedelta(0), dry_run=False)

    def test_names_stay_below_the_root(self, store: ArtifactStore) -> None:
        ref = store.put_bytes(b"hello", "note")
        with closing(store.place.open(object_name(ref.digest))) as file:
            assert file.read(2) + file.read() == b"hello"
        assert store.place.size("objects") is None
        store.place.delete("objects/absent")


def replaced(store: ArtifactStore, now: list[float]) -> Timing:
    """The timing of ``store`` on a clock that the test sets."""
    return replace(store.timing, now=lambda: now[0])
