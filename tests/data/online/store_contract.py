"""What every online store keeps, whichever server holds it: one suite, run on SQLite, Redis and PostgreSQL."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator

import pytest

from rayplat.data.online.store import NO_CREATED, Batch, OnlineStore, Row, RowsOf, TileId, TilesOf

VIEW, OTHER = "weather@0123456789ab", "weather@ba9876543210"
FAR = 253_402_300_799_999_999  # the last microsecond of the year 9999: more than a double holds


def row(key: bytes, event_us: int, value: bytes, created_us: int = NO_CREATED) -> Row:
    return key, event_us, created_us, value


def rows(store: OnlineStore, *keys: bytes, view: str = VIEW) -> dict[bytes, tuple[int, bytes]]:
    return store.read([RowsOf(view, keys)])[0][0]


class StoreContract:
    """Subclasses give a ``store`` that is empty."""

    def test_notes(self, store: OnlineStore) -> None:
        store.put("view", "b", "2")
        store.put("view", "a", "ü\x1f\n")
        store.put("service", "a", "3")
        store.put("view", "b", "4")
        assert store.notes("view") == {"a": "ü\x1f\n", "b": "4"}
        store.put("view", "b", None)
        assert list(store.notes("view")) == ["a"]
        assert store.notes("service") == {"a": "3"}
        assert store.notes("nothing") == {}

    def test_the_newest_event_wins_then_the_later_created_then_the_later_written(self, store: OnlineStore) -> None:
        store.write(VIEW, Batch([row(b"k", 200, b"first", 5)]))
        for late in (row(b"k", 199, b"older event", 9), row(b"k", 200, b"created before", 4), row(b"k", 200, b"not")):
            store.write(VIEW, Batch([late]))
            assert rows(store, b"k") == {b"k": (200, b"first")}
        for newer in (row(b"k", 200, b"written later", 5), row(b"k", 200, b"created", 6), row(b"k", 201, b"event")):
            store.write(VIEW, Batch([newer]))
            assert rows(store, b"k") == {b"k": (newer[1], newer[3])}

    @pytest.mark.parametrize("event_us", [0, -1, -(2**62), 1_383_264_000_000_001, 2**53 + 1, FAR])
    def test_a_microsecond_decides_at_any_time(self, store: OnlineStore, event_us: int) -> None:
        store.write(VIEW, Batch([row(b"k", event_us, b"old")]))
        store.write(VIEW, Batch([row(b"k", event_us - 1, b"older")]))
        assert rows(store, b"k") == {b"k": (event_us, b"old")}
        store.write(VIEW, Batch([row(b"k", event_us + 1, b"new")]))
        assert rows(store, b"k") == {b"k": (event_us + 1, b"new")}

    def test_within_one_batch_too(self, store: OnlineStore) -> None:
        batch = [row(b"k", 1, b"1"), row(b"k", 3, b"3"), row(b"k", 3, b"3 again"), row(b"k", 2, b"2")]
        store.write(VIEW, Batch(batch))
        assert rows(store, b"k") == {b"k": (3, b"3 again")}

    def test_keys_and_values_are_any_bytes(self, store: OnlineStore) -> None:
        keys = [b"", b"\0", b"a\0b", "Zürich 😀".encode(), b"x:y:*", bytes(range(256)), b"%s {} '"]
        store.write(VIEW, Batch([row(key, i, key + b"!") for i, key in enumerate(keys)]))
        assert rows(store, *keys) == {key: (i, key + b"!") for i, key in enumerate(keys)}

    def test_unknown_views_and_keys_are_absent(self, store: OnlineStore) -> None:
        assert rows(store, b"k") == {}
        assert store.read([]) == ([], [])
        store.write(VIEW, Batch([row(b"k", 1, b"v")]))
        asked = [RowsOf(VIEW, [b"no", b"k"]), RowsOf(OTHER, [b"k"]), RowsOf(VIEW, [])]
        assert store.read(asked)[0] == [{b"k": (1, b"v")}, {}, {}]

    def test_many_rows_in_one_batch_and_one_read(self, store: OnlineStore) -> None:
        made = {f"key {i}".encode(): (i, str(i).encode()) for i in range(3000)}
        store.write(VIEW, Batch(row(key, *found) for key, found in made.items()))
        assert rows(store, *made) == made

    def test_versions_of_a_view_lie_beside_each_other(self, store: OnlineStore) -> None:
        store.write(VIEW, Batch([row(b"k", 1, b"v")], cursor={"n": 1}))
        store.write(OTHER, Batch([row(b"k", 2, b"w")], cursor={"n": 2}))
        store.drop(VIEW)
        assert rows(store, b"k") == {}
        assert store.cursor(VIEW) is None
        assert rows(store, b"k", view=OTHER) == {b"k": (2, b"w")}
        assert store.cursor(OTHER) == {"n": 2}
        store.write(VIEW, Batch([row(b"k", 0, b"anew")]))
        assert rows(store, b"k") == {b"k": (0, b"anew")}

    @pytest.mark.parametrize("fresh", [False, True])
    def test_a_write_that_fails_leaves_rows_and_cursor(self, store: OnlineStore, fresh: bool) -> None:
        store.write(VIEW, Batch([row(b"k", 1, b"v")], cursor={"upto": "a"}))

        def broken() -> Iterator[Row]:
            yield row(b"k", 2, b"w")
            raise RuntimeError("the source ended")

        with pytest.raises(RuntimeError):
            store.write(VIEW, Batch(broken(), cursor={"upto": "b"}, fresh=fresh))
        assert rows(store, b"k") == {b"k": (1, b"v")}
        assert store.cursor(VIEW) == {"upto": "a"}

    def test_a_fresh_write_drops_what_was_there(self, store: OnlineStore) -> None:
        store.write(VIEW, Batch([row(b"a", 9, b"v"), row(b"b", 9, b"v")], [(b"a", 0, 1, b"m", b"e")], cursor={"n": 1}))
        store.amend(VIEW, [(b"a", 0, 1)], lambda *_: b"p")
        store.write(VIEW, Batch([row(b"b", 1, b"w")], cursor={"n": 2}, fresh=True, keep_pushed=True))
        assert rows(store, b"a", b"b") == {b"b": (1, b"w")}
        assert store.cursor(VIEW) == {"n": 2}
        ask = TilesOf(VIEW, b"a", 0, 0, 9, (1,))
        found = store.read([], [ask])[1][0]
        assert (found.moments, found.events, found.pushed) == ({}, {}, {1: b"p"})
        store.write(VIEW, Batch(fresh=True))
        assert store.read([], [ask])[1][0].pushed == {}
        assert rows(store, b"b") == {}
        store.write(VIEW, Batch([row(b"b", 5, b"x")]))
        assert rows(store, b"b") == {b"b": (5, b"x")}

    def test_a_fresh_write_elsewhere_is_seen(self, store: OnlineStore) -> None:
        reader = pickle.loads(pickle.dumps(store))
        store.write(VIEW, Batch([row(b"k", 9, b"v")]))
        assert rows(reader, b"k") == {b"k": (9, b"v")}
        store.write(VIEW, Batch([row(b"k", 1, b"w")], fresh=True))
        assert rows(reader, b"k") == {b"k": (1, b"w")}
        reader.write(VIEW, Batch([row(b"k", 2, b"x")]))
        assert rows(store, b"k") == {b"k": (2, b"x")}

    def test_a_removed_row_goes_only_as_it_was(self, store: OnlineStore) -> None:
        store.write(VIEW, Batch([row(b"a", 5, b"v"), row(b"b", 6, b"v")]))
        store.write(VIEW, Batch([row(b"a", 3, b"w")], removed=[(b"a", 5), (b"b", 5), (b"c", 5)]))
        assert rows(store, b"a", b"b", b"c") == {b"a": (3, b"w"), b"b": (6, b"v")}

    def test_tiles_of_a_span(self, store: OnlineStore) -> None:
        made = [(b"k", 0, n, b"m%d" % n, b"e%d" % n) for n in (-1, 3, 4, 7, 9)]
        store.write(VIEW, Batch(tiles=[*made, (b"k", 1, 4, b"other clock", b""), (b"l", 0, 4, b"other key", b"")]))
        asked = [
            TilesOf(VIEW, b"k", 0, -1, 7, (3, 5)),
            TilesOf(VIEW, b"l", 0, 0, 9, ()),
            TilesOf(OTHER, b"k", 0, 0, 9, (3,)),
        ]
        first, second, third = store.read([], asked)[1]
        assert first.moments == {-1: b"m-1", 3: b"m3", 4: b"m4", 7: b"m7"}
        assert first.events == {3: b"e3"}
        assert second.moments == {4: b"other key"}
        assert (first.pushed, second.events, third.moments) == ({}, {}, {})

    def test_tiles_are_replaced_and_removed(self, store: OnlineStore) -> None:
        store.write(VIEW, Batch(tiles=[(b"k", 0, n, b"m", b"e") for n in range(4)]))
        store.write(VIEW, Batch(tiles=[(b"k", 0, 1, b"M", b"E")], removed_tiles=[(b"k", 0, 2), (b"no", 0, 2)]))
        found = store.read([], [TilesOf(VIEW, b"k", 0, 0, 9, (1, 2, 3))])[1][0]
        assert found.moments == {0: b"m", 1: b"M", 3: b"m"}
        assert found.events == {1: b"E", 3: b"e"}
        store.drop(VIEW, before=3)
        assert store.read([], [TilesOf(VIEW, b"k", 0, 0, 9, ())])[1][0].moments == {3: b"m"}

    def test_rows_and_tiles_in_one_read(self, store: OnlineStore) -> None:
        store.write(VIEW, Batch([row(b"k", 1, b"v")], [(b"k", 0, 1, b"m", b"e")]))
        found, tiles = store.read([RowsOf(VIEW, [b"k"])], [TilesOf(VIEW, b"k", 0, 0, 2, (1,))])
        assert found == [{b"k": (1, b"v")}]
        assert (tiles[0].moments, tiles[0].events) == ({1: b"m"}, {1: b"e"})

    def test_what_is_pushed_comes_with_its_tile(self, store: OnlineStore) -> None:
        store.write(VIEW, Batch(tiles=[(b"k", 0, n, b"m", b"e%d" % n) for n in range(4)]))
        seen = []

        def change(tile: TileId, events: bytes | None, pushed: bytes | None) -> bytes | None:
            seen.append((tile, events, pushed))
            return b"p"

        store.amend(VIEW, [(b"k", 0, 2), (b"k", 0, 8), (b"new", 0, 1)], change)
        assert seen == [((b"k", 0, 2), b"e2", None), ((b"k", 0, 8), None, None), ((b"new", 0, 1), None, None)]
        found = store.read([], [TilesOf(VIEW, b"k", 0, 0, 9, (0,))])[1][0]
        assert found.pushed == {2: b"p", 8: b"p"}
        assert found.events == {0: b"e0", 2: b"e2"}
        store.amend(VIEW, [(b"k", 0, 2)], lambda tile, events, pushed: None)
        assert store.read([], [TilesOf(VIEW, b"k", 0, 0, 9, ())])[1][0].pushed == {8: b"p"}

    def test_concurrent_amendments_lose_nothing(self, store: OnlineStore) -> None:
        def push(name: int) -> None:
            for n in range(10):
                mark = b"%d.%d " % (name, n)
                store.amend(
                    VIEW, [(b"k", 0, 1), (b"l", 0, n)], lambda _, events, pushed, mark=mark: (pushed or b"") + mark
                )

        at_once([threading.Thread(target=push, args=(name,)) for name in range(6)])
        pushed = store.read([], [TilesOf(VIEW, b"k", 0, 0, 2, ())])[1][0].pushed[1].split()
        assert sorted(pushed) == sorted(b"%d.%d" % (name, n) for name in range(6) for n in range(10))

    def test_concurrent_writers_leave_the_newest(self, store: OnlineStore) -> None:
        def write(name: int) -> None:
            for n in range(name, 120, 4):
                store.write(VIEW, Batch([row(b"a", n, b"%d" % n), row(b"b", n, b"%d" % n)], cursor={"n": n}))

        at_once([threading.Thread(target=write, args=(name,)) for name in range(4)])
        assert rows(store, b"a", b"b") == {b"a": (119, b"119"), b"b": (119, b"119")}

    def test_readers_see_whole_values_while_a_writer_works(self, store: OnlineStore) -> None:
        store.write(VIEW, Batch([row(b"k", 0, b"0")]))
        stop, odd = threading.Event(), []

        def watch() -> None:
            while not stop.is_set():
                event_us, value = rows(store, b"k")[b"k"]
                if value != b"%d" % event_us:
                    odd.append((event_us, value))

        readers = [threading.Thread(target=watch) for _ in range(2)]
        for reader in readers:
            reader.start()
        for n in range(1, 100):
            store.write(VIEW, Batch([row(b"k", n, b"%d" % n)]))
        stop.set()
        for reader in readers:
            reader.join(10)
        assert odd == []


def at_once(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
