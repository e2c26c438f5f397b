"""The contract of online stores on a real Redis server, and what is its own: restarts, hangs, secrets."""

from __future__ import annotations

import os
import signal
import time

import pytest

from rayplat.data.online.redis import RedisStore
from rayplat.data.online.store import Batch, RowsOf, TilesOf
from rayplat.errors import InvalidInput, Unavailable
from tests.data.online.store_contract import VIEW, StoreContract, row, rows
from tests.servers import free_port, redis_server

pytestmark = pytest.mark.services


class TestRedis(StoreContract):
    @pytest.fixture
    def store(self, redis_url: str) -> RedisStore:
        import redis

        redis.Redis.from_url(redis_url).flushdb()
        return RedisStore(redis_url)


def test_nothing_is_left_of_a_view_that_was_dropped(redis_url: str) -> None:
    import redis

    client = redis.Redis.from_url(redis_url)
    client.flushdb()
    store = RedisStore(redis_url)
    for fresh in (False, True, True):
        store.write(VIEW, Batch([row(b"k", 1, b"v")], [(b"k", 0, 1, b"m", b"e")], cursor={"n": 1}, fresh=fresh))
        store.amend(VIEW, [(b"k", 0, 1)], lambda *_: b"p")
    assert len(client.keys(b"rp:r:*")) == 1
    store.drop(VIEW)
    assert client.keys("*") == []


def test_a_writer_that_was_cut_off_in_a_fresh_write_changes_nothing(redis_url: str) -> None:
    store = RedisStore(redis_url)
    store.write(VIEW, Batch([row(b"k", 1, b"v")], cursor={"n": 1}, fresh=True))

    def cut_off():  # type: ignore[no-untyped-def]
        yield from (row(b"%d" % n, 9, b"w") for n in range(2500))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.write(VIEW, Batch(cut_off(), cursor={"n": 2}, fresh=True))
    assert rows(store, b"k", b"0") == {b"k": (1, b"v")}
    store.write(VIEW, Batch([row(b"k", 2, b"w")], cursor={"n": 2}, fresh=True))
    assert rows(store, b"k", b"0") == {b"k": (2, b"w")}


def test_a_restarted_server_is_found_again_and_a_stopped_one_is_named() -> None:
    port, tile = free_port(), TilesOf(VIEW, b"k", 0, 0, 3, (1,))
    store = RedisStore(f"redis://user:secret@127.0.0.1:{port}/3")
    with pytest.raises(Unavailable, match=f"127.0.0.1:{port}/3 does not answer") as caught:
        store.read([RowsOf(VIEW, [b"k"])])
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(store)
    with redis_server(port) as url:
        store = RedisStore(url)
        store.write(VIEW, Batch([row(b"k", 1, b"v")]))
        assert store.read([], [tile])[1][0].moments == {}
    with redis_server(port):
        assert rows(store, b"k") == {}
        store.write(VIEW, Batch([row(b"k", 1, b"v")], [(b"k", 0, 1, b"m", b"e")]))
        store.amend(VIEW, [(b"k", 0, 1)], lambda *_: b"p")
        assert rows(store, b"k") == {b"k": (1, b"v")}
        assert store.read([], [tile])[1][0].pushed == {1: b"p"}


def test_a_server_that_hangs_is_an_error_soon() -> None:
    import redis

    with redis_server() as url:
        store = RedisStore(url)
        store.put("view", "a", "1")
        process = int(redis.Redis.from_url(url).info("server")["process_id"])
        os.kill(process, signal.SIGSTOP)
        try:
            begun = time.monotonic()
            with pytest.raises(Unavailable, match="does not answer"):
                store.notes("view")
            assert time.monotonic() - begun < 20
        finally:
            os.kill(process, signal.SIGCONT)


def test_a_url_that_is_none_is_refused_without_its_secret() -> None:
    with pytest.raises(InvalidInput) as caught:
        RedisStore("redis://user:secret@127.0.0.1:notaport/0").notes("view")
    assert "secret" not in str(caught.value)
