"""What goes wrong underneath: full disks, damaged and vanished files, replaced tables, demands of other writers."""

from __future__ import annotations

import errno
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pytest

from rayplat.data.tables import Tables, files
from rayplat.data.tables.place import Place
from rayplat.errors import Conflict, Corrupt, InvalidInput, NotFound, Unavailable
from tests.data.tables.golden import Log, field


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(str(tmp_path / "tables"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB where we may mount one; elsewhere a folder in which long writes fail alike."""
    folder, patch = tmp_path / "small", pytest.MonkeyPatch()
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    if not mounted:
        patch.setattr(files.pq, "write_table", _write_half)
    yield folder
    patch.undo()
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


def _write_half(rows: pa.Table, out: Any, **_: Any) -> None:
    out.write(b"x" * 4096)
    if rows.nbytes > 512 << 10:
        raise OSError(errno.ENOSPC, "No space left on device")


def noise(rows: int) -> pa.Table:
    """16 bytes a row that do not compress."""
    import numpy as np

    words = np.random.default_rng(0).integers(0, 1 << 62, (2, rows))
    return pa.table({"a": words[0], "b": words[1]})


def data_files(tables: Tables, name: str = "t") -> set[str]:
    return {path.name for path in Path(tables.uri, name).rglob("*.parquet") if "_delta_log" not in str(path)}


def test_a_disk_that_fills_changes_nothing(small_disk: Path) -> None:
    tables = Tables(str(small_disk / "tables"))
    first = tables.create("t", noise(10))
    before = data_files(tables)
    for write in (
        lambda: tables.append("t", noise(100_000)),
        lambda: tables.overwrite("t", noise(100_000)),
        lambda: tables.upsert("t", noise(100_000), ["a"]),
        lambda: tables.create("u", noise(100_000)),
    ):
        with pytest.raises(Unavailable, match=r"table [tu] .*no space left while .*/[tu]/part-"):
            write()
    assert data_files(tables) == before
    assert not data_files(tables, "u")
    assert tables.version("t") == first
    assert tables.append("t", noise(5)).row_count == 15


def test_a_log_that_cannot_be_written_changes_nothing(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    from deltalake import DeltaTable

    first, before = tables.create("t", noise(2)), data_files(tables)

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(
            "Generic LocalFileSystem error: Unable to copy data to file: No space left on device (os error 28)"
        )

    monkeypatch.setattr(DeltaTable, "create_write_transaction", full)
    with pytest.raises(Unavailable, match=r"table t .*no space left"):
        tables.append("t", noise(2))
    assert data_files(tables) == before
    assert tables.version("t") == first


def test_a_damaged_file_is_named(tables: Tables) -> None:
    tables.create("t", noise(1000))
    tables.append("t", noise(1000))
    path = Path(tables.scan("t").files[1].path)
    whole = path.read_bytes()
    for damaged in (b"PAR1 not a file", whole[: len(whole) // 2], whole[:400] + b"\xff" * 4000 + whole[4400:]):
        path.write_bytes(damaged)
        for use in (lambda: tables.read("t"), lambda: tables.read("t", where=pc.field("a") > 0)):
            with pytest.raises(Corrupt, match=path.name):
                use()
    assert tables.version("t").row_count == 2000  # the log tells


def test_a_file_that_went_is_named(tables: Tables) -> None:
    pinned = tables.create("t", noise(10))
    path = Path(tables.scan("t").files[0].path)
    scan = tables.scan(pinned)
    path.unlink()
    for use in (lambda: scan.table(), lambda: scan.head(1), lambda: list(scan.batches()), lambda: tables.read(pinned)):
        with pytest.raises(NotFound, match=f"{path.name}.*vacuumed"):
            use()


def test_a_store_that_does_not_answer_is_not_a_damaged_file(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    tables.create("t", noise(10))
    scan = tables.scan("t")
    store = Opened()
    object.__setattr__(scan, "place", Counted(scan.place.uri, (), store))

    def silent(path: str) -> Any:
        raise OSError(f"When reading information for key '{path}': AWS Error NETWORK_CONNECTION, curlCode: 28")

    monkeypatch.setattr(store, "open_input_file", silent)
    with pytest.raises(Unavailable, match="NETWORK_CONNECTION"):
        scan.table()


def test_an_expression_that_fails_on_a_value_is_the_callers(tables: Tables) -> None:
    tables.create("t", noise(10))
    with pytest.raises(InvalidInput, match="expression"):
        tables.read("t", where=pc.field("a").cast(pa.int8()) == 1)


def test_a_table_made_anew_is_not_the_pinned_one(tables: Tables) -> None:
    pinned = tables.create("t", noise(10))
    shutil.rmtree(pinned.uri)
    with pytest.raises(NotFound, match="table 't'"):
        tables.read(pinned)
    tables.create("t", noise(10))
    with pytest.raises(Conflict, match="t@0 is not the one that was pinned"):
        tables.read(pinned)
    with pytest.raises(Conflict, match="pinned"):
        tables.scan(pinned)


def test_a_damaged_log_is_named(tables: Tables) -> None:
    tables.create("t", noise(1))
    (Path(tables.uri) / "t" / "_delta_log" / f"{0:020d}.json").write_text("{broken")
    with pytest.raises(Corrupt, match=r"log of table t.* found .*Json error") as found:
        tables.read("t")
    assert len(str(found.value).splitlines()) == 1  # delta-rs adds a stack trace


@pytest.mark.parametrize(
    ("settings", "metadata", "features", "text"),
    [
        ({"delta.constraints.positive": "n > 0"}, {}, ["checkConstraints"], "check constraint positive"),
        ({}, {"delta.invariants": '{"expression":{"expression":"n > 0"}}'}, ["invariants"], "invariants of column n"),
        ({}, {"delta.generationExpression": "1"}, ["generatedColumns"], "generationExpression of column n"),
        ({}, {"delta.identity.start": 1, "delta.identity.step": 1}, ["identityColumns"], "identity"),
        ({}, {"CURRENT_DEFAULT": "1"}, ["allowColumnDefaults"], "allowColumnDefaults"),
        ({"delta.enableInCommitTimestamps": "true"}, {}, ["inCommitTimestamp"], "inCommitTimestamp"),
        ({"delta.enableRowTracking": "true"}, {}, ["rowTracking", "domainMetadata"], "rowTracking"),
    ],
)  # fmt: skip
def test_what_a_table_demands_of_writers_is_refused_by_name(
    tables: Tables, settings: dict[str, str], metadata: dict[str, Any], features: list[str], text: str
) -> None:
    log = Log(Path(tables.uri) / "t")
    log.begin(field("n", "long", **metadata), writer_features=features, configuration=settings)
    log.commit(log.file(pa.table({"n": [1]})))
    more = pa.table({"n": [2]})
    for write in (
        lambda: tables.append("t", more),
        lambda: tables.overwrite("t", more),
        lambda: tables.upsert("t", more, ["n"]),
        lambda: tables.delete("t", pc.field("n") == 1),
    ):
        with pytest.raises(InvalidInput, match=f"table t: .*{text}"):
            write()
    assert tables.read("t")["n"].to_pylist() == [1]
    assert len(data_files(tables)) == 1


def test_append_only_tables_take_rows_and_keep_them(tables: Tables) -> None:
    log = Log(Path(tables.uri) / "t")
    log.begin(field("n", "long"), configuration={"delta.appendOnly": "true"})
    log.commit(log.file(pa.table({"n": [1]})))
    tables.append("t", pa.table({"n": [2]}))
    tables.upsert("t", pa.table({"n": [3]}), ["n"])  # inserts alone
    for write in (
        lambda: tables.overwrite("t", pa.table({"n": [3]})),
        lambda: tables.upsert("t", pa.table({"n": [2]}), ["n"]),
        lambda: tables.delete("t", pc.field("n") == 1),
    ):
        with pytest.raises(InvalidInput, match="append-only"):
            write()
    assert sorted(tables.read("t")["n"].to_pylist()) == [1, 2, 3]
    assert len(data_files(tables)) == 3


def test_a_predicate_opens_only_the_files_it_needs(tables: Tables) -> None:
    """A hundred files of a hundred rows; the one that is opened is counted."""
    log = Log(Path(tables.uri) / "t")
    log.begin(field("n", "long"), field("text", "string"))
    actions = []
    for i in range(100):
        rows = pa.table({"n": range(i * 100, i * 100 + 100), "text": [f"{i:03d}-{j:03d}" for j in range(100)]})
        low, high = {"n": i * 100, "text": f"{i:03d}-000"}, {"n": i * 100 + 99, "text": f"{i:03d}-099"}
        ends = {"minValues": low, "maxValues": high, "nullCount": {"n": 0, "text": 0}}
        actions.append(log.file(rows, statistics=ends))
    log.commit(*actions)
    for wanted in (pc.field("n") == 4_217, (pc.field("text") >= "042-010") & (pc.field("text") < "042-011")):
        counter = Opened()
        scan = tables.scan("t")
        object.__setattr__(scan, "place", Counted(scan.place.uri, (), counter))
        assert scan.table(where=wanted).num_rows == 1
        assert len(counter.opened) == 1
        counter.opened.clear()
        assert scan.prune(wanted).table(where=wanted).num_rows == 1
        assert len(counter.opened) == 1


class Opened(pafs.FileSystemHandler):  # type: ignore[misc]
    """A local file system that notes which files were opened."""

    def __init__(self) -> None:
        self.local = pafs.LocalFileSystem()
        self.opened: set[str] = set()

    def open_input_file(self, path: str) -> Any:
        self.opened.add(path)
        return self.local.open_input_file(path)

    open_input_stream = open_input_file

    def get_file_info(self, paths: list[str]) -> Any:
        return self.local.get_file_info(paths)

    def get_file_info_selector(self, selector: Any) -> Any:
        return self.local.get_file_info(selector)

    def get_type_name(self) -> str:
        return "opened"

    def normalize_path(self, path: str) -> str:
        return path

    def _refused(self, *args: Any) -> Any:
        raise OSError("read only")

    copy_file = create_dir = delete_dir = delete_dir_contents = delete_file = delete_root_dir_contents = _refused
    move = open_append_stream = open_output_stream = _refused


class Counted(Place):
    """A place whose files are opened through ``Opened``."""

    def __init__(self, uri: str, options: tuple[tuple[str, str], ...], counter: Opened) -> None:
        super().__init__(uri, options)
        object.__setattr__(self, "_through", pafs.PyFileSystem(counter))

    @property
    def filesystem(self) -> Any:
        return self._through  # type: ignore[attr-defined]


def test_options_that_lose_commits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="AWS_S3_ALLOW_UNSAFE_RENAME"):
        Tables("s3://bucket", {"AWS_S3_ALLOW_UNSAFE_RENAME": "true"})
    with pytest.raises(InvalidInput, match="AWS_ALLOW_HTTP"):
        Tables("s3://bucket", {"AWS_ENDPOINT_URL": "http://x", "AWS_REGION": "r"}).names()
    assert "secret" not in repr(Tables("s3://bucket", {"AWS_SECRET_ACCESS_KEY": "secret"}).place("t"))


@pytest.mark.ray
def test_a_full_disk_on_a_worker(tables: Tables, ray_cluster: str, tmp_path: Path) -> None:
    """The worker's error arrives as what it is; what its siblings wrote goes."""
    import ray

    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        small.rmdir()
        small.symlink_to("/dev/full")  # every write to it fails; the folder cannot be made
    try:
        with pytest.raises((Unavailable, OSError)):
            Tables(str(small / "tables")).create("t", ray.data.from_arrow([noise(10), noise(100_000)]))
        assert not list(small.rglob("*.parquet")) if small.is_dir() else True
    finally:
        subprocess.run(["umount", str(small)], capture_output=True, check=False)
