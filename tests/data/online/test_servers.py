"""The whole online path on Redis and PostgreSQL: materialize, push at once from many sides, read; killed in between."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta

import pyarrow as pa
import pytest

from rayplat import settings as settings_module
from rayplat.data.features.build import rows_of
from rayplat.data.online import OnlineFeatures, open_store
from rayplat.data.online.materialize import advance
from rayplat.data.online.push import push
from rayplat.data.tables import Tables
from rayplat.settings import Settings
from tests.data.declared import DELAYS, SCHEDULE, WEATHER
from tests.data.online.test_windows import KEYS, TRIPS, asked, at, known, same, trips, truth
from tests.data.online.world import apply, apply_all

pytestmark = pytest.mark.services


@pytest.fixture(params=["redis", "postgres"])
def settings(request: pytest.FixtureRequest, settings: Settings) -> Settings:
    url = request.getfixturevalue(f"{request.param}_url")
    made = settings_module.load(settings.home, environ={}, data={"online_store": url})
    store = open_store(url)
    for view in (SCHEDULE, WEATHER, DELAYS, TRIPS):
        store.drop(view.id)
    return made


def test_fields_and_windows(settings: Settings) -> None:
    tables = apply_all(settings)
    store = apply(settings, [TRIPS])
    tables.create(TRIPS.table, rows_of(TRIPS, trips()))
    online = OnlineFeatures(settings, {TRIPS.name: TRIPS.digest()}, TRIPS.keys)
    for upto in (5.5, 26.1, 60):
        advance(store, tables, TRIPS, at(upto))
        keys, moments = asked(upto, upto + 0.4)
        same(online.read(keys, moments).values, truth(known(trips(), at(upto)), keys, moments))
    for view in (SCHEDULE, WEATHER, DELAYS):
        advance(store, tables, view, at(1))
    chain = OnlineFeatures(settings, {v.name: v.digest() for v in (SCHEDULE, WEATHER, DELAYS)}, "flight")
    rows = chain.read(["f4", "f5", "nobody"], at(1.2))
    assert rows.values["temp"] == [3.0, 2.0, None]
    assert rows.values["departures_1h"] == [1, 1, None]
    advance(store, tables, WEATHER, at(0.5), fresh=True)
    assert chain.read(["f4"], at(1)).values["temp"] == [1.0]


def test_pushes_from_many_sides_are_all_counted(settings: Settings) -> None:
    tables = Tables(settings.tables_uri)
    tables.create(TRIPS.table, rows_of(TRIPS, trips()))
    store = apply(settings, [TRIPS])
    advance(store, tables, TRIPS, at(60))
    fresh = trips(60, seed=9, first=40, last=41)

    def one(part: int) -> None:
        for n in range(part, 60, 4):
            push(store, None, "trips", fresh.slice(n, 1))

    sides = [threading.Thread(target=one, args=(part,)) for part in range(4)]
    for side in sides:
        side.start()
    for side in sides:
        side.join(60)
    online = OnlineFeatures(settings, {TRIPS.name: TRIPS.digest()}, TRIPS.keys)
    keys, moments = asked(40.5, 44, 47)
    same(online.read(keys, moments).values, truth(pa.concat_tables([trips(), fresh]), keys, moments))


_KILLED = """
import sys
sys.path[:0] = [{root!r}]
from rayplat.data.online import tile_steps
from rayplat.data.online.materialize import advance
from rayplat.data.online import open_store
from rayplat.data.tables import Tables
from tests.data.online.test_windows import TRIPS, at
tile_steps._TILES_PER_WRITE = 5
store = open_store({url!r})
print("begun", flush=True)
advance(store, Tables({tables!r}), TRIPS, at(60))
"""


def test_a_killed_materialization_run_again_ends_right(settings: Settings, pytestconfig: pytest.Config) -> None:
    tables = Tables(settings.tables_uri)
    tables.create(TRIPS.table, rows_of(TRIPS, trips()))
    store = apply(settings, [TRIPS])
    program = _KILLED.format(root=str(pytestconfig.rootpath), url=settings.online_store, tables=settings.tables_uri)
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=pytestconfig.rootpath)
    assert child.stdout is not None
    assert child.stdout.readline() == b"begun\n"
    online = OnlineFeatures(settings, {TRIPS.name: TRIPS.digest()}, TRIPS.keys)
    until = time.monotonic() + 20
    while "present" not in online.read(KEYS, at(48)).status["trips"] and time.monotonic() < until:
        pass
    child.send_signal(signal.SIGKILL)
    child.wait(10)
    child.stdout.close()
    advance(store, tables, TRIPS, at(60))
    keys, moments = asked(10, 30, 48)
    same(online.read(keys, moments).values, truth(trips(), keys, moments))
    assert store.cursor(TRIPS.id)["upto"] == (at(0) + timedelta(hours=60)).isoformat()  # type: ignore[index]
