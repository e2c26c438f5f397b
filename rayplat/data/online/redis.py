"""The online store in Redis.

Rows are strings ``rp:r:<view>:<generation>:<key>``, tiles two hashes per key (``rp:t`` the base, ``rp:p`` what was
pushed). Scripts compare times on the server, so of two writers the newer event wins. A view's generation is a
token in ``rp:gen``: a fresh write fills a new one and then moves the token, readers see the old rows until then;
the token is read along with the rows. Redis keeps no transaction over several calls: a write's cursor is set last.
"""

from __future__ import annotations

import json
import secrets
import struct
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rayplat.data.online.redis_scripts import REMOVE, SWAP, TILES, WRITE
from rayplat.data.online.store import Batch, Change, Found, FoundTiles, RowsOf, TileId, TilesOf, shown
from rayplat.data.online.values import view_number
from rayplat.errors import Conflict, InvalidInput, Unavailable

if TYPE_CHECKING:
    import redis

_CONNECT_S, _ANSWER_S = 2.0, 5.0
_ROWS_PER_CALL = 1000
_ROUNDS = 200
_GEN, _CURSOR = b"rp:gen", b"rp:cursor"
_TIMES = struct.Struct(">QQ")
_NUMBER = struct.Struct(">qI")
_SIGN = 1 << 63


class RedisStore:
    """`OnlineStore` in the database that ``url`` names (one server or its replicas' primary; no Redis Cluster)."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._clients: dict[int, redis.Redis] = {}
        self._scripts: dict[str, str] = {}
        self._generations: dict[bytes, bytes] = {}

    def __reduce__(self) -> tuple[type[RedisStore], tuple[str]]:
        return RedisStore, (self._url,)

    def __repr__(self) -> str:
        return f"RedisStore({shown(self._url)})"

    def put(self, kind: str, name: str, text: str | None) -> None:
        with self._server() as client:
            if text is None:
                client.hdel(f"rp:n:{kind}", name)
            else:
                client.hset(f"rp:n:{kind}", name, text)

    def notes(self, kind: str) -> dict[str, str]:
        with self._server() as client:
            found: Any = client.hgetall(f"rp:n:{kind}")
        return {name.decode(): text.decode() for name, text in sorted(found.items())}

    def cursor(self, view: str) -> dict[str, Any] | None:
        with self._server() as client:
            text = client.hget(_CURSOR, view)
        return None if text is None else dict(json.loads(text))

    def write(self, view: str, batch: Batch) -> None:
        with self._server() as client:
            if batch.fresh:
                self._write_fresh(client, view, batch)
                return
            rows, tiles = list(batch.rows), list(batch.tiles)  # read to the end before anything is written
            removed, removed_tiles = list(batch.removed), list(batch.removed_tiles)
            generation = self._generation(client, view)
            for part in _parts(removed):
                keys = [_row(view, generation, key) for key, _ in part]
                self._call(client, REMOVE, keys, [_times(event_us, 0)[:8] for _, event_us in part])
            self._write_rows(client, view, generation, rows)
            _drop_tiles(client, view, generation, removed_tiles)
            _put_tiles(client, view, generation, tiles)
            if batch.cursor is not None:
                client.hset(_CURSOR, view, json.dumps(dict(batch.cursor)))

    def read(self, rows: Sequence[RowsOf], tiles: Sequence[TilesOf] = ()) -> tuple[list[Found], list[FoundTiles]]:
        views = list(dict.fromkeys(view.encode() for view in (*(r.view for r in rows), *(t.view for t in tiles))))
        if not views:
            return [], []
        with self._server() as client:
            for _ in range(_ROUNDS):
                used = {view: self._generations.get(view, b"0") for view in views}
                now, answers = self._fetch(client, views, used, rows, tiles)
                if now == used:
                    count = len(rows)
                    found = [_found(ask, answer) for ask, answer in zip(rows, answers[:count], strict=True)]
                    return found, [_found_tiles(answer) for answer in answers[count:]]
                self._generations.update(now)  # a fresh write was completed meanwhile: read its rows
        raise Unavailable("the online store", f"{shown(self._url)}: rows are replaced faster than they can be read")

    def amend(self, view: str, tiles: Sequence[TileId], change: Change) -> None:
        with self._server() as client:
            waiting = list(dict.fromkeys(tiles))
            for _ in range(_ROUNDS):
                waiting = self._amend(client, view, waiting, change)
                if not waiting:
                    return
        raise Conflict(f"{len(waiting)} tiles of {view} change faster than this push can be added; push them again")

    def drop(self, view: str, before: int | None = None) -> None:
        with self._server() as client:
            if before is not None:
                _drop_before(client, view, before)
                return
            client.hdel(_CURSOR, view)
            client.hset(_GEN, view, secrets.token_hex(6))  # writers that are under way are turned away
            _sweep(client, view, None, pushed=True)
            client.hdel(_GEN, view)
            self._generations.pop(view.encode(), None)

    def _write_fresh(self, client: redis.Redis, view: str, batch: Batch) -> None:
        generation = secrets.token_hex(6).encode()
        for rows in _parts(batch.rows):
            self._write_rows(client, view, generation, rows, new=True)
        for tiles in _parts(batch.tiles):
            _put_tiles(client, view, generation, tiles)
        done = client.pipeline(transaction=True)
        done.hset(_GEN, view, generation)
        if batch.cursor is None:
            done.hdel(_CURSOR, view)
        else:
            done.hset(_CURSOR, view, json.dumps(dict(batch.cursor)))
        done.execute()
        self._generations[view.encode()] = generation
        _sweep(client, view, generation, pushed=not batch.keep_pushed)

    def _write_rows(
        self, client: redis.Redis, view: str, generation: bytes, rows: Sequence[Any], *, new: bool = False
    ) -> None:
        import redis

        for part in _parts(rows):
            values = [_times(event_us, created_us) + value for _, event_us, created_us, value in part]
            keys = [_GEN, *(_row(view, generation, row[0]) for row in part)]
            marks = [view, generation, "new" if new else ""]
            try:
                self._call(client, WRITE, keys, [*marks, *values])
            except redis.ResponseError as e:
                if "GENERATION" not in str(e):
                    raise
                raise Conflict(f"{view} was rebuilt or dropped online while it was written; write again") from None

    def _fetch(
        self,
        client: redis.Redis,
        views: list[bytes],
        used: Mapping[bytes, bytes],
        rows: Sequence[RowsOf],
        tiles: Sequence[TilesOf],
    ) -> tuple[dict[bytes, bytes], list[Any]]:
        """The generations as they are now, then the answers as of those in ``used``."""
        import redis

        for _ in range(2):
            calls = client.pipeline(transaction=bool(tiles))  # one state of all tiles
            calls.hmget(_GEN, views)
            for ask in rows:
                name = _row(ask.view, used[ask.view.encode()], b"")
                calls.mget([name + key for key in ask.keys] or [b""])
            for t in tiles:
                keys = [_tile(t.view, used[t.view.encode()], t.key), _pushed(t.view, t.key)]
                calls.evalsha(self._sha(client, TILES), 2, *keys, t.clock, t.first, t.last, *t.ends)
            try:
                now, *answers = calls.execute()
            except redis.exceptions.NoScriptError:
                self._scripts.clear()  # the server was restarted
                continue
            return {view: gen or b"0" for view, gen in zip(views, now, strict=True)}, answers
        raise Unavailable("the online store", f"{shown(self._url)} forgets its scripts")

    def _amend(self, client: redis.Redis, view: str, tiles: Sequence[TileId], change: Change) -> list[TileId]:
        """Those of ``tiles`` that somebody else changed at the same time. A lost answer is not asked for again: the
        change may have been made."""
        generation = self._generation(client, view)
        calls = client.pipeline(transaction=False)
        for key, clock, tile in tiles:
            calls.hget(_tile(view, generation, key), f"e{clock}:{tile}")
            calls.hget(_pushed(view, key), f"p{clock}:{tile}")
        read = calls.execute()
        swaps = self._connected(retries=0).pipeline(transaction=False)
        for i, (key, clock, tile) in enumerate(tiles):
            events, pushed = read[2 * i], read[2 * i + 1]
            made = change((key, clock, tile), events, pushed)
            swaps.eval(SWAP, 1, _pushed(view, key), f"p{clock}:{tile}", pushed or b"", made or b"")
        return [tile for tile, done in zip(tiles, swaps.execute(), strict=True) if not done]

    def _generation(self, client: redis.Redis, view: str) -> bytes:
        found: Any = client.hget(_GEN, view) or b"0"
        self._generations[view.encode()] = found
        return bytes(found)

    def _call(self, client: redis.Redis, script: str, keys: Sequence[bytes], arguments: Sequence[Any]) -> Any:
        import redis

        for _ in range(2):
            try:
                return client.evalsha(self._sha(client, script), len(keys), *keys, *arguments)
            except redis.exceptions.NoScriptError:
                self._scripts.clear()
        raise Unavailable("the online store", f"{shown(self._url)} forgets its scripts")

    def _sha(self, client: redis.Redis, script: str) -> str:
        found = self._scripts.get(script)
        if found is None:
            found = self._scripts[script] = str(client.script_load(script))
        return found

    @contextmanager
    def _server(self) -> Iterator[redis.Redis]:
        import redis

        try:
            yield self._connected()
        except (redis.ConnectionError, redis.TimeoutError) as e:
            reason = (
                f"Redis at {shown(self._url)} does not answer ({type(e).__name__}); start it or see data.online_store"
            )
            raise Unavailable("the online store", reason) from e
        except redis.RedisError as e:
            raise Unavailable("the online store", f"Redis at {shown(self._url)} refuses: {e}") from e

    def _connected(self, retries: int = 2) -> redis.Redis:
        """A client that asks again over a new connection where one was lost."""
        with self._lock:
            if retries not in self._clients:
                self._clients[retries] = _client(self._url, retries)
            return self._clients[retries]


def _client(url: str, retries: int) -> redis.Redis:
    import redis
    from redis.backoff import ConstantBackoff
    from redis.retry import Retry

    again = Retry(ConstantBackoff(0.05), retries, (redis.ConnectionError,))
    try:
        return redis.Redis.from_url(url, socket_connect_timeout=_CONNECT_S, socket_timeout=_ANSWER_S, retry=again)
    except ValueError:
        raise InvalidInput("data.online_store", f"{shown(url)} is no Redis URL") from None


def _times(event_us: int, created_us: int) -> bytes:
    return _TIMES.pack(event_us + _SIGN, created_us + _SIGN)


def _number(view: str) -> bytes:
    return f"{view_number(view) % 2**64:016x}".encode()


def _row(view: str, generation: bytes, key: bytes) -> bytes:
    return b"rp:r:%b:%b:%b" % (_number(view), generation, key)


def _tile(view: str, generation: bytes, key: bytes) -> bytes:
    return b"rp:t:%b:%b:%b" % (_number(view), generation, key)


def _pushed(view: str, key: bytes) -> bytes:
    return b"rp:p:%b:-:%b" % (_number(view), key)


def _found(ask: RowsOf, answer: Sequence[bytes | None]) -> Found:
    return {
        key: (int.from_bytes(data[:8], "big") - _SIGN, data[16:])
        for key, data in zip(ask.keys, answer, strict=False)
        if data is not None
    }


def _found_tiles(answer: Sequence[bytes]) -> FoundTiles:
    return FoundTiles(*map(_numbered, answer))


def _numbered(data: bytes) -> dict[int, bytes]:
    """Tiles by number from `TILES`."""
    found, at = {}, 0
    while at < len(data):
        tile, size = _NUMBER.unpack_from(data, at)
        at += _NUMBER.size + size
        found[tile] = data[at - size : at]
    return found


def _put_tiles(client: redis.Redis, view: str, generation: bytes, tiles: Iterable[Any]) -> None:
    for part in _parts(tiles):
        calls = client.pipeline(transaction=True)
        for key, clock, tile, moments, events in part:
            mapping: Any = {f"m{clock}:{tile}": moments, f"e{clock}:{tile}": events}
            calls.hset(_tile(view, generation, key), mapping=mapping)
        calls.execute()


def _drop_tiles(client: redis.Redis, view: str, generation: bytes, tiles: Iterable[TileId]) -> None:
    for part in _parts(tiles):
        calls = client.pipeline(transaction=True)
        for key, clock, tile in part:
            calls.hdel(_tile(view, generation, key), f"m{clock}:{tile}", f"e{clock}:{tile}")
        calls.execute()


def _sweep(client: redis.Redis, view: str, generation: bytes | None, *, pushed: bool) -> None:
    """Delete a view's rows and tiles of other generations than this, and what was pushed."""
    for kind in (b"r", b"t", b"p") if pushed else (b"r", b"t"):
        kept = None if generation is None or kind == b"p" else b"rp:%b:%b:%b:" % (kind, _number(view), generation)
        gone = (k for k in _scan(client, view, kind) if kept is None or not k.startswith(kept))
        for part in _parts(gone):
            client.unlink(*part)


def _drop_before(client: redis.Redis, view: str, before: int) -> None:
    for kind in (b"t", b"p"):
        for name in _scan(client, view, kind):
            fields: Any = client.hkeys(name)
            old = [field for field in fields if int(field.rpartition(b":")[2]) < before]
            if old:
                client.hdel(name, *old)


def _scan(client: redis.Redis, view: str, kind: bytes) -> Iterator[bytes]:
    return iter(client.scan_iter(match=b"rp:%b:%b:*" % (kind, _number(view)), count=1000))


def _parts(items: Iterable[Any]) -> Iterator[list[Any]]:
    part: list[Any] = []
    for item in items:
        part.append(item)
        if len(part) == _ROWS_PER_CALL:
            yield part
            part = []
    if part:
        yield part
