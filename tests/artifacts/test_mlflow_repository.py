"""The store as MLflow's artifact repository: the behaviours of MLflow's own repositories, and what only ours promises.
One set of tests, on a folder and on an S3 server."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rayplat.artifacts.gc import gc
from rayplat.artifacts.locations import parse, tree_uri, uri_of
from rayplat.artifacts.store import ArtifactStore

RUN = "0123456789abcdef" * 2


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.services)])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The root of a store that nothing is in yet."""
    if request.param == "folder":
        return str(tmp_path / "store")
    s3 = request.getfixturevalue("s3")
    for name, value in s3.options.items():
        monkeypatch.setenv(name, value)
    return f"{s3.uri}/store-{uuid.uuid4().hex}"


@pytest.fixture
def repository(root: str) -> Any:
    return open_at(f"{uri_of(root)}/1/{RUN}/artifacts")


@pytest.fixture
def local(tmp_path: Path) -> Any:
    """A repository on a folder, for rules that do not depend on the medium."""
    return open_at(f"{uri_of(str(tmp_path / 'store'))}/1/{RUN}/artifacts")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder to log from."""
    made = tmp_path / "files"
    (made / "nested" / "deep").mkdir(parents=True)
    (made / "empty").mkdir()
    (made / "a.txt").write_text("A")
    (made / ".hidden").write_text("42")
    (made / "nested" / "b.txt").write_text("BB")
    (made / "nested" / "deep" / "c.bin").write_bytes(bytes(range(256)) * 100)
    return made


def open_at(uri: str) -> Any:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(uri)


def store_at(root: str) -> ArtifactStore:
    options = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ALLOW_HTTP")
    return ArtifactStore(root, {k: os.environ[k] for k in options} if root.startswith("s3://") else None)


def listed(repository: Any, path: str | None = None) -> list[tuple[str, bool, int | None]]:
    return [(f.path, f.is_dir, f.file_size) for f in repository.list_artifacts(path)]


@contextlib.contextmanager
def refused(code: str, match: str | None = None) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match=match) as info:
        yield
    assert info.value.error_code == code


def test_an_untouched_place_is_empty(repository: Any, root: str) -> None:
    assert listed(repository) == []
    assert listed(repository, "nothing/here") == []
    repository.delete_artifacts("nothing")
    assert not Path(root).exists(), "reading makes no folder"
    with refused("RESOURCE_DOES_NOT_EXIST", "nothing"):
        repository.download_artifacts("nothing")


def test_a_file_comes_back(repository: Any, files: Path, tmp_path: Path) -> None:
    repository.log_artifact(files / "a.txt")
    repository.log_artifact(str(files / "a.txt"), "x/y")
    assert listed(repository) == [("a.txt", False, 1), ("x", True, None)]
    assert listed(repository, "x") == [("x/y", True, None)]
    assert listed(repository, "x/y") == listed(repository, "x/y/") == [("x/y/a.txt", False, 1)]
    assert listed(repository, "x/y/a.txt") == [], "a file has nothing in it"
    (tmp_path / "into").mkdir()
    found = repository.download_artifacts("x/y/a.txt", str(tmp_path / "into"))
    assert found == str(tmp_path / "into" / "x" / "y" / "a.txt")
    assert Path(found).read_text() == "A"
    assert Path(repository.download_artifacts("a.txt")).read_text() == "A"


def test_a_folder_comes_back_with_hidden_files_and_empty_folders(repository: Any, files: Path, tmp_path: Path) -> None:
    repository.log_artifacts(str(files), "all")
    assert listed(repository, "all") == [
        ("all/.hidden", False, 2),
        ("all/a.txt", False, 1),
        ("all/empty", True, None),
        ("all/nested", True, None),
    ]
    (tmp_path / "into").mkdir()
    found = Path(repository.download_artifacts("", str(tmp_path / "into"))) / "all"
    assert tree(found) == tree(files)
    assert (found / "empty").is_dir()
    assert tree(Path(repository.download_artifacts("all/nested"))) == tree(files / "nested")


def test_logging_again_replaces_the_name_and_keeps_the_old_object(repository: Any, files: Path, root: str) -> None:
    repository.log_artifact(files / "a.txt")
    store = store_at(root)
    before = store.put_file(files / "a.txt", "file").digest
    (files / "a.txt").write_text("A second time")
    repository.log_artifact(files / "a.txt")
    assert listed(repository) == [("a.txt", False, 13)]
    assert Path(repository.download_artifacts("a.txt")).read_text() == "A second time"
    assert store.get_bytes(before) == b"A"


def test_the_same_bytes_are_stored_once(files: Path, tmp_path: Path) -> None:
    store = uri_of(str(tmp_path / "store"))
    for n in range(3):
        open_at(f"{store}/1/{n:032x}/artifacts").log_artifacts(files)
    objects = [p for p in (tmp_path / "store" / "objects").rglob("*") if p.is_file()]
    assert len(objects) == 4


def test_a_link_is_followed(repository: Any, files: Path) -> None:
    (files / "link.txt").symlink_to(files / "a.txt")
    (files / "folder").symlink_to(files / "nested")
    repository.log_artifacts(files)
    assert Path(repository.download_artifacts("link.txt")).read_text() == "A"
    assert Path(repository.download_artifacts("folder/b.txt")).read_text() == "BB"
    (files / "nested" / "loop").symlink_to(files)
    with refused("INVALID_PARAMETER_VALUE", "holds it"):
        repository.log_artifacts(files)


def test_what_is_no_file_is_refused(local: Any, files: Path) -> None:
    os.mkfifo(files / "pipe")
    with refused("INVALID_PARAMETER_VALUE", "regular file"):
        local.log_artifact(files / "pipe")
    with refused("RESOURCE_DOES_NOT_EXIST", "absent"):
        local.log_artifact(files / "absent")
    with refused("RESOURCE_DOES_NOT_EXIST", "absent"):
        local.log_artifacts(files / "absent")


def test_deleting_forgets_the_name(repository: Any, files: Path) -> None:
    repository.log_artifacts(files)
    repository.delete_artifacts("nested/deep")
    assert listed(repository, "nested") == [("nested/b.txt", False, 2)]
    repository.delete_artifacts("nested/b.txt")
    assert "nested" not in [path for path, _, _ in listed(repository)]
    repository.delete_artifacts("a.txt")
    repository.delete_artifacts("a.txt/deeper")
    repository.delete_artifacts()
    assert listed(repository) == []
    repository.log_artifact(files / "a.txt")
    assert listed(repository) == [("a.txt", False, 1)]


BAD = ["/", "/etc", "..", "../x", "a/../../x", "%2e%2e/x", "%252e%252e/x", "a#b", "a?b", "a\\b", "a\nb"]


@pytest.mark.parametrize("path", [*BAD, ".", "./a", "a//b", "a/"])
def test_a_path_that_could_leave_is_refused_where_it_is_written(local: Any, files: Path, path: str) -> None:
    with refused("INVALID_PARAMETER_VALUE", "Invalid artifact path"):
        local.log_artifact(files / "a.txt", path)
    with refused("INVALID_PARAMETER_VALUE", "Invalid artifact path"):
        local.log_artifacts(files, path)
    assert listed(local) == []


@pytest.mark.parametrize("path", BAD)
def test_a_path_that_could_leave_is_refused_where_it_is_read(local: Any, path: str, tmp_path: Path) -> None:
    for call in (local.list_artifacts, local.download_artifacts, local.delete_artifacts):
        with refused("INVALID_PARAMETER_VALUE", "Invalid path"):
            call(path)
    with refused("INVALID_PARAMETER_VALUE", "Invalid path"):
        local._download_file(path, str(tmp_path / "x"))


@pytest.mark.parametrize("name", ["a#b", "a?b", "%2e%2e", "a\nb", ".folder"])
def test_a_file_name_that_could_mislead_is_refused(local: Any, files: Path, name: str) -> None:
    (files / name).write_text("x")
    with refused("INVALID_PARAMETER_VALUE", "Invalid artifact path"):
        local.log_artifact(files / name)


@pytest.mark.parametrize("uri", ["cas://relative", "cas:///a/../b", "cas:///a#b", "cas:///"])
def test_an_address_that_is_none_is_refused(uri: str) -> None:
    with refused("INVALID_PARAMETER_VALUE"):
        open_at(uri)


def test_names_with_blanks_percent_signs_and_letters_of_the_world(repository: Any, files: Path) -> None:
    for name in ("with blank.txt", "100%.txt", "größe.txt", "x@y=z,+.txt"):
        (files / name).write_text(name)
        repository.log_artifact(files / name, "a b/ü")
        assert Path(repository.download_artifacts(f"a b/ü/{name}")).read_text() == name


def test_runs_do_not_see_each_other(root: str, files: Path) -> None:
    one = open_at(f"{uri_of(root)}/1/{RUN}/artifacts")
    other = open_at(f"{uri_of(root)}/1/{'f' * 32}/artifacts")
    one.log_artifact(files / "a.txt")
    assert listed(other) == []
    assert listed(open_at(uri_of(root))) == [("1", True, None)]
    assert listed(open_at(f"{uri_of(root)}/1/{RUN}/artifacts/nested")) == []


def test_what_a_proxying_server_writes_is_where_the_run_looks(root: str, files: Path) -> None:
    open_at(uri_of(root)).log_artifacts(files, f"1/{RUN}/artifacts/model")
    direct = open_at(f"{uri_of(root)}/1/{RUN}/artifacts")
    assert tree(Path(direct.download_artifacts("model"))) == tree(files)


def test_garbage_collection_keeps_what_a_run_names_until_it_is_deleted(local: Any, files: Path, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    local.log_artifacts(files)

    def collect() -> None:
        for _ in range(2):  # one condemns, the next deletes
            gc(store, dict, timedelta(0), dry_run=False)

    collect()
    assert tree(Path(local.download_artifacts(""))) == tree(files)
    digest = store.put_file(files / "a.txt", "file").digest
    local.delete_artifacts("a.txt")
    collect()
    assert not store.exists(digest)
    assert Path(local.download_artifacts("nested/b.txt")).read_text() == "BB"


# --- immutable trees -----------------------------------------------------------------------------------


def test_a_tree_is_read_and_never_written(root: str, files: Path, tmp_path: Path) -> None:
    (files / "empty").rmdir()
    digest = store_at(root).put_tree(files, "model").digest
    found = open_at(tree_uri(root, digest))
    assert listed(found) == [(".hidden", False, 2), ("a.txt", False, 1), ("nested", True, None)]
    assert listed(found, "nested") == [("nested/b.txt", False, 2), ("nested/deep", True, None)]
    assert listed(found, "a.txt") == []
    assert tree(Path(found.download_artifacts(""))) == tree(files)
    below = open_at(f"{tree_uri(root, digest)}/nested")
    assert Path(below.download_artifacts("deep/c.bin")).read_bytes() == (files / "nested/deep/c.bin").read_bytes()
    for change in (lambda: found.log_artifact(files / "a.txt"), lambda: found.log_artifacts(files)):
        with refused("PERMISSION_DENIED", "immutable"):
            change()
    with refused("PERMISSION_DENIED", "immutable"):
        found.delete_artifacts()
    with refused("RESOURCE_DOES_NOT_EXIST", r"nested/x"):
        found.download_artifacts("nested/x")


def test_mlflow_downloads_a_tree_by_its_address(root: str, files: Path, tmp_path: Path) -> None:
    import mlflow.artifacts

    (files / "empty").rmdir()
    uri = tree_uri(root, store_at(root).put_tree(files, "model").digest)
    assert tree(Path(mlflow.artifacts.download_artifacts(uri))) == tree(files)
    assert Path(mlflow.artifacts.download_artifacts(f"{uri}/nested/b.txt")).read_text() == "BB"
    run = open_at(f"{uri_of(root)}/1/{RUN}/artifacts")
    run.log_artifacts(files)
    assert tree(Path(mlflow.artifacts.download_artifacts(run.artifact_uri))) == tree(files)
    with refused("RESOURCE_DOES_NOT_EXIST"):
        mlflow.artifacts.download_artifacts(tree_uri(root, "sha256:" + "0" * 64))


def test_a_tree_that_is_not_there_is_not_found(root: str, files: Path) -> None:
    store_at(root).put_tree(files / "nested", "model")
    with refused("RESOURCE_DOES_NOT_EXIST"):
        open_at(tree_uri(root, "sha256:" + "0" * 64)).list_artifacts()


# --- damage (on a folder, where it can be done) --------------------------------------------------------


@pytest.fixture
def damaged(files: Path, tmp_path: Path) -> Any:
    """A function: log a file, flip one bit of the object behind it, and return the repository."""

    def damage(find: str) -> Any:
        repository = open_at(f"{uri_of(str(tmp_path / 'store'))}/1/{RUN}/artifacts")
        repository.log_artifact(files / "nested" / "deep" / "c.bin")
        largest = max((tmp_path / "store" / find).rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else -1)
        content = bytearray(largest.read_bytes())
        content[len(content) // 2] ^= 1
        largest.chmod(0o644)
        largest.write_bytes(content)
        return repository

    return damage


def test_a_flipped_bit_of_an_object_fails_the_download(damaged: Any, tmp_path: Path) -> None:
    (tmp_path / "into").mkdir()
    repository = damaged("objects")
    with refused("DATA_LOSS", "damaged"):
        repository.download_artifacts("c.bin", str(tmp_path / "into"))
    assert list((tmp_path / "into").iterdir()) == [], "no wrong bytes, not even a part of them"


def test_every_flipped_bit_of_a_name_fails_the_download(local: Any, files: Path, tmp_path: Path) -> None:
    from mlflow.exceptions import MlflowException

    local.log_artifact(files / "a.txt")
    ref = tmp_path / "store" / "refs" / "1" / RUN / "artifacts" / "a.txt"
    content = ref.read_bytes()
    assert json.loads(content)["size"] == 1
    for position in range(0, len(content) * 8, 11):
        changed = bytearray(content)
        changed[position // 8] ^= 1 << position % 8
        ref.write_bytes(changed)
        with pytest.raises(MlflowException):
            local.download_artifacts("a.txt")
    ref.write_bytes(content[:-3])
    with refused("DATA_LOSS", "damaged"):
        local.list_artifacts()


def test_a_truncated_and_a_lost_object_fail(local: Any, files: Path, tmp_path: Path) -> None:
    local.log_artifact(files / "a.txt")
    objects = tmp_path / "store" / "objects"
    found = next(p for p in objects.rglob("*") if p.is_file())
    found.chmod(0o644)
    found.write_bytes(b"")
    with refused("DATA_LOSS"):
        local.download_artifacts("a.txt")
    shutil.rmtree(objects / "sha256")
    with refused("RESOURCE_DOES_NOT_EXIST"):
        local.download_artifacts("a.txt")


def test_a_file_cannot_be_a_folder_too(repository: Any, files: Path) -> None:
    repository.log_artifact(files / "a.txt")
    with refused("INVALID_PARAMETER_VALUE", "folder"):
        repository.log_artifact(files / ".hidden", "a.txt")
    assert Path(repository.download_artifacts("a.txt")).read_text() == "A"
    (files / "nested.txt").write_text("")
    repository.log_artifact(files / ".hidden", "nested.txt")
    with refused("INVALID_PARAMETER_VALUE", "folder"):
        repository.log_artifact(files / "nested.txt")


def test_an_unreachable_store_says_so(tmp_path: Path, files: Path) -> None:
    (tmp_path / "file").write_text("")
    repository = open_at(f"cas://{tmp_path}/file/store")
    with refused("TEMPORARILY_UNAVAILABLE", "artifact store"):
        repository.log_artifact(files / "a.txt")


def test_trace_data(repository: Any) -> None:
    from mlflow.exceptions import MlflowTraceDataCorrupted, MlflowTraceDataNotFound

    with pytest.raises(MlflowTraceDataNotFound):
        repository.download_trace_data()
    repository.upload_trace_data("no json")
    with pytest.raises(MlflowTraceDataCorrupted):
        repository.download_trace_data()
    repository.upload_trace_data(json.dumps({"spans": []}))
    assert repository.download_trace_data() == {"spans": []}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_root_is_read_back_from_its_uri(root: str) -> None:
    assert parse(uri_of(root)).root == root
