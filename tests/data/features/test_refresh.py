"""A refreshed feature table holds the same rows as one that is built anew, whatever happened to the source."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayplat.data.features import FeatureView, refresh
from rayplat.data.features.build import rows_of
from rayplat.data.features.notes import held, note
from rayplat.data.tables import Tables
from rayplat.errors import Conflict, InvalidInput, NotFound
from tests.data.declared import TIME
from tests.data.features.declared_visits import HOURS, SPENT, as_set, visits

VIEWS = (SPENT, HOURS)


def build_here(tables: Tables, view: FeatureView, version: int | None = None, **_: object) -> object:
    """What `build` does, in this process."""
    pinned, before = tables.version(view.source, version), held(tables, view)
    made = rows_of(view, tables.read(pinned))
    noted = note(view, pinned, "build")
    return tables.overwrite(view.table, made, transaction=before.transaction, metadata=noted, replace_schema=True)


def check(tables: Tables) -> None:
    for view in VIEWS:
        refresh.refresh(tables, view)
        assert as_set(tables.read(view.table)) == as_set(rows_of(view, tables.read("visits"))), view.name
        assert held(tables, view).holds(tables.version("visits"))


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refresh, "build", build_here)


STEPS = st.one_of(
    st.tuples(st.just("append"), st.lists(st.integers(0, 400), min_size=1, max_size=8)),
    st.tuples(st.just("delete"), st.integers(0, 400)),
    st.tuples(st.just("change"), st.lists(st.integers(0, 400), min_size=1, max_size=4)),
)


@settings(max_examples=10, deadline=None)
@given(
    first=st.lists(st.integers(0, 400), min_size=1, max_size=20),
    rounds=st.lists(st.lists(STEPS, max_size=3), max_size=3),
)
def test_refreshed_is_built(tmp_path_factory: pytest.TempPathFactory, first: list[int], rounds: list) -> None:
    tables = Tables(str(tmp_path_factory.mktemp("tables")))
    tables.create("visits", visits(first))
    check(tables)
    ids = len(first)
    for steps in rounds:
        for kind, what in steps:
            if kind == "append":
                tables.append("visits", visits(what, ids))
                ids += len(what)
            elif kind == "delete":
                tables.delete("visits", pc.field("id") == what % ids)
            else:
                tables.upsert("visits", visits(what), ["id"])
        check(tables)


def test_only_what_changed_is_written(tmp_path: Path) -> None:
    tables = Tables(str(tmp_path))
    tables.create("visits", visits(list(range(40))))
    check(tables)
    before = {view.name: tables.version(view.table).version for view in VIEWS}
    check(tables)
    assert {view.name: tables.version(view.table).version for view in VIEWS} == before
    tables.append("visits", visits([45], 1000))
    tables.delete("visits", pc.field("id") == 8)
    check(tables)
    for view in VIEWS:
        commit = tables.metadata(view.table, tables.version(view.table).version)
        assert (commit["how"], commit["source_version"]) == ("refresh", "2")
        assert int(commit["rows"]) <= 3


def test_two_refreshes_from_one_version_end_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = Tables(str(tmp_path))
    tables.create("visits", visits(list(range(20))))
    check(tables)
    tables.append("visits", visits([22], 100))
    tables.delete("visits", pc.field("id") == 100)
    tables.append("visits", visits([23], 101))
    write, raced = refresh._write, []

    def slow(tables: Tables, view: FeatureView, *rest: object) -> None:
        if not raced:  # between this one's reading and its writing, another takes over the first of three changes
            raced.append(view.name)
            refresh.refresh(tables, view, upto=1)
        write(tables, view, *rest)

    monkeypatch.setattr(refresh, "_write", slow)
    check(tables)
    assert raced == ["spent"]
    raced.clear()
    tables.append("visits", visits([24], 102))
    monkeypatch.setattr(refresh, "_write", lambda *_: None)
    with pytest.raises(Conflict, match="'spent' kept being written by others"):
        refresh.refresh(tables, SPENT)


def test_what_the_feed_cannot_tell_is_built_anew(tmp_path: Path) -> None:
    tables = Tables(str(tmp_path))
    tables.create("visits", visits(list(range(20))))
    check(tables)
    tables.overwrite("visits", visits([1, 2, 3]))
    check(tables)
    tables.append("visits", pa.concat_tables([visits([40], 50), visits([40], 51)]))
    check(tables)
    tables.delete("visits", pc.field("id") == 51)  # one of two rows of a key and moment
    check(tables)


def test_refusals_leave_the_table_as_it_was(tmp_path: Path) -> None:
    tables = Tables(str(tmp_path))
    with pytest.raises(NotFound, match="visits"):
        refresh.refresh(tables, SPENT)
    careful = replace(SPENT, known_at={"amount": "written"}, event_time="written")
    tables.create("visits", visits(list(range(1, 10))))
    refresh.refresh(tables, careful)
    before = tables.version(careful.table)
    late = visits([20], 99)
    tables.append("visits", late.set_column(4, "written", pa.array([None], TIME)))
    refresh.refresh(tables, careful)
    early = replace(careful, event_time="seen", name="early")
    with pytest.raises(InvalidInput, match="view early: reads its own future: 'amount' is known at 'written'"):
        refresh.refresh(tables, early)
    assert tables.version(careful.table).version == before.version + 1
    assert np.array_equal(as_set(tables.read(careful.table)), as_set(rows_of(careful, tables.read("visits"))))
