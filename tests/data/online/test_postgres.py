"""The contract of online stores on a real PostgreSQL server, and what is its own: lost connections, hangs, secrets."""

from __future__ import annotations

import os
import signal
import time

import pytest

from rayplat.data.online.postgres import PostgresStore
from rayplat.data.online.store import Batch, RowsOf
from rayplat.errors import InvalidInput, Unavailable
from tests.data.online.store_contract import VIEW, StoreContract, row, rows
from tests.servers import free_port

pytestmark = pytest.mark.services


@pytest.fixture
def store(postgres_url: str) -> PostgresStore:
    import psycopg

    found = PostgresStore(postgres_url)
    found.notes("view")  # makes the tables
    with psycopg.connect(postgres_url, autocommit=True) as db:
        db.execute("TRUNCATE rp_online_notes, rp_online_rows, rp_online_tiles")
    return found


class TestPostgres(StoreContract):
    pass


def test_a_lost_connection_is_opened_again(store: PostgresStore, postgres_url: str) -> None:
    import psycopg

    store.write(VIEW, Batch([row(b"k", 1, b"v")]))
    with psycopg.connect(postgres_url, autocommit=True) as db:
        ends = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'rayplat online store'"
        for act in (
            lambda: rows(store, b"k"),
            lambda: store.write(VIEW, Batch([row(b"k", 1, b"v")])),
            lambda: store.amend(VIEW, [(b"k", 0, 1)], lambda *_: b"p"),
        ):
            db.execute(ends)
            act()
    assert rows(store, b"k") == {b"k": (1, b"v")}


def test_a_server_that_hangs_is_an_error_soon(store: PostgresStore) -> None:
    process = store._connection().info.backend_pid  # the one process that serves this store
    os.kill(process, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        with pytest.raises(Unavailable, match="PostgreSQL at"):
            store.notes("view")
        assert time.monotonic() - begun < 20
    finally:
        os.kill(process, signal.SIGCONT)
    assert store.notes("view") == {}


def test_a_stopped_server_is_named_without_its_secret() -> None:
    port = free_port()
    store = PostgresStore(f"postgresql://user:secret@127.0.0.1:{port}/base")
    with pytest.raises(Unavailable, match=f"127.0.0.1:{port}/base") as caught:
        store.read([RowsOf(VIEW, [b"k"])])
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(store)
    with pytest.raises(InvalidInput) as refused:
        PostgresStore("postgresql://user:sec%ret@127.0.0.1/base").notes("view")
    assert "sec" not in str(refused.value).removeprefix("data.online_store")
