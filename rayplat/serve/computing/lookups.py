"""Feature lookups of one endpoint: requests that wait while one is under way are looked up together next.

A read of eight keys takes little longer than a read of one (18 and 10 ms for the windows of the demo), and reads in
threads beside each other take longer than one after the other, because they are mostly Python. So one is under way at a
time. One that takes long, because its store hangs or it asks for many rows, gives up its turn and holds up nobody.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Hashable
from datetime import datetime
from functools import partial

from rayplat.errors import DeadlineExceeded, Overloaded, RayplatError
from rayplat.serve import inputs
from rayplat.serve.computing.calls import Calls
from rayplat.serve.ports import LoadedVersion
from rayplat.serve.request import InferRequest, Values

_WHAT = "the feature lookup"
_AT_ONCE = 4  # reads beside each other, where they take long
_TURN_S = 0.25
_MOST_ROWS = 32  # in one read; more would save little and keep the first of them waiting
_MOST_WAITING = 512  # requests: 16 reads


class _Asked:
    """A request that waits for its columns."""

    __slots__ = ("answer", "at", "left_s", "request")

    def __init__(self, request: InferRequest, at: datetime, left_s: float) -> None:
        self.request, self.at, self.left_s = request, at, left_s
        self.answer: asyncio.Future[dict[str, Values]] = asyncio.get_running_loop().create_future()


class Lookups:
    """Belongs to one event loop. ``most_waiting``: requests that may wait, more are refused."""

    def __init__(self, most_waiting: int | None = None) -> None:
        self._most_waiting = _MOST_WAITING if most_waiting is None else most_waiting
        self._calls = Calls("lookup", _WHAT, _AT_ONCE)
        self._groups: OrderedDict[Hashable, dict[_Asked, None]] = OrderedDict()  # what may be read together
        self._versions: dict[Hashable, LoadedVersion] = {}
        self._waiting = 0
        self._turn: asyncio.TimerHandle | None = None
        self._reads: set[asyncio.Task[None]] = set()

    async def columns(
        self, loaded: LoadedVersion, request: InferRequest, at: datetime, left_s: float
    ) -> dict[str, Values]:
        """`inputs.columns` of one request. Raises what it is refused for, `Overloaded` at once where too many wait,
        `DeadlineExceeded` after ``left_s`` seconds, and `Unavailable` while too many earlier reads have not
        returned."""
        if self._turn is not None and self._waiting >= self._most_waiting:
            raise Overloaded(_WHAT, f"{self._waiting} requests wait for it")
        asked = _Asked(request, at, left_s)
        key = (id(loaded), tuple(sorted(request.columns)))
        self._groups.setdefault(key, {})[asked] = None
        self._versions[key] = loaded
        self._waiting += 1
        self._next()
        try:
            async with asyncio.timeout(left_s):
                return await asked.answer
        except TimeoutError:
            raise DeadlineExceeded(_WHAT, round(left_s, 3)) from None
        finally:
            self._leave(key, asked)  # where its client has gone

    def close(self) -> None:
        """End its threads once they are done, and refuse what waits."""
        self._calls.close()

    def _next(self) -> None:
        while self._turn is None and self._groups:
            key, group = next(iter(self._groups.items()))
            loaded = self._versions[key]
            wanted: list[_Asked] = []
            rows = 0
            for asked in list(group):
                rows += asked.request.rows
                if wanted and rows > _MOST_ROWS:
                    self._groups.move_to_end(key)  # those of another version come first now
                    break
                self._leave(key, asked)
                wanted.append(asked)
            self._begin(loaded, wanted)

    def _leave(self, key: Hashable, asked: _Asked) -> None:
        group = self._groups.get(key)
        if group is None or asked not in group:
            return
        del group[asked]
        self._waiting -= 1
        if not group:
            del self._groups[key], self._versions[key]

    def _begin(self, loaded: LoadedVersion, wanted: list[_Asked]) -> None:
        read = asyncio.create_task(self._read(loaded, wanted), name="lookup")
        self._reads.add(read)
        turn: asyncio.TimerHandle = asyncio.get_running_loop().call_later(_TURN_S, lambda: self._give_up(turn))
        self._turn = turn

        def ended(read: asyncio.Task[None]) -> None:
            self._reads.discard(read)
            self._give_up(turn)

        def left(_: asyncio.Future[dict[str, Values]]) -> None:
            if all(asked.answer.done() for asked in wanted):
                read.cancel()  # nobody waits for it any more: `Calls` leaves it behind where it does not return

        read.add_done_callback(ended)
        for asked in wanted:
            asked.answer.add_done_callback(left)

    def _give_up(self, turn: asyncio.TimerHandle) -> None:
        turn.cancel()
        if self._turn is turn:
            self._turn = None
            self._next()

    async def _read(self, loaded: LoadedVersion, wanted: list[_Asked]) -> None:
        work = partial(inputs.columns, loaded, [(asked.request, asked.at) for asked in wanted])
        try:
            found = await self._calls.run(work, max(asked.left_s for asked in wanted))
        except Exception as e:  # noqa: BLE001 - whatever it is, those who wait for it get it
            for asked in wanted:
                if not asked.answer.done():
                    asked.answer.set_exception(e)
            return
        for asked, one in zip(wanted, found, strict=True):
            if not asked.answer.done():
                if isinstance(one, RayplatError):
                    asked.answer.set_exception(one)
                else:
                    asked.answer.set_result(one)
