"""What a prediction costs, learned from predictions: ``fixed_s`` for each call and ``row_s`` for each row in it. Pure.

The line through (rows, seconds) is a least-squares fit whose older points weigh less and less, so it follows a machine
that becomes busy. Beside it the shortest of the last small calls is kept, because a wait for a core or the
interpreter's lock makes a quick call look slow, and never a slow one quick: a model that left the loop for that would
wait for both at every call. One that stalls counts as slow until the next call.

A version that has not been measured is taken for what its predecessor was (`CostCurve.guess`). A guess lets requests
wait; it never makes a version quick enough for the loop, and its own first call replaces it.
"""

from __future__ import annotations

INLINE_S = 0.0005  # a hop to a thread and back costs about 0.1 ms, and other requests wait for what runs on the loop
INLINE_ROWS = 32

_KEEP = 0.98  # weight of what is known when a point is added: the last 50 count
_OUTLIER = 5.0
_IN_A_ROW = 32  # calls that are all slower than the shortest one before them: it is slower now
_USUALLY_S = 4 * INLINE_S  # one call in a crowd of slow ones is quick: the loop would stand still for the others
_STALL_S = 0.05  # longer than any wait for the lock: the loop must not stand still like that a second time
_ENOUGH = 8  # points from which on one can be called an outlier
_EFFICIENT = 0.95


class CostCurve:
    """Seconds for n rows: ``fixed_s + row_s * n``, both at least 0. Nothing is ``known`` before the first `learn`;
    until then they may be ``guessed``."""

    __slots__ = ("_floors", "_guessed", "_n", "_slower", "_sums", "fixed_s", "row_s", "scv")

    def __init__(self) -> None:
        self._sums = [0.0] * 5  # weights, rows, rows squared, seconds, rows times seconds
        self._floors: list[float] = [0.0] * (INLINE_ROWS.bit_length() + 1)
        self._slower = [(0, float("inf"))] * len(self._floors)  # calls since the floor was met, the shortest of them
        self._n = 0
        self._guessed = False
        self.fixed_s = self.row_s = self.scv = 0.0

    @property
    def known(self) -> bool:
        return self._n > 0

    @property
    def guessed(self) -> bool:
        return self._guessed and self._n == 0

    def guess(self, other: CostCurve) -> None:
        """Take the cost for ``other``'s, where nothing is known here and something there. The first `learn` sets the
        level; the slope stays the other's until calls of two sizes have been seen."""
        if self._n == 0 and (other.known or other.guessed):
            self.fixed_s, self.row_s, self._guessed = other.fixed_s, other.row_s, True

    def expect(self, rows: float) -> float:
        """Seconds for ``rows`` rows."""
        return self.fixed_s + self.row_s * rows

    def learn(self, rows: int, seconds: float) -> None:
        """A call with ``rows`` rows took ``seconds``."""
        self.touch(rows, seconds)
        if self._n >= _ENOUGH:
            expected = self.expect(rows)
            seconds = min(seconds, _OUTLIER * expected) if expected > 0 else seconds
            off = (seconds - expected) / expected if expected > 0 else 0.0
            self.scv += (off * off - self.scv) / 50
        self._n += 1
        sums = self._sums
        for i, value in enumerate((1.0, rows, rows * rows, seconds, rows * seconds)):
            sums[i] = sums[i] * _KEEP + value
        self._fit()

    def touch(self, rows: int, seconds: float) -> None:
        """The cheap half of `learn`: only how quick calls of this size are."""
        if rows <= INLINE_ROWS:
            size = rows.bit_length()
            floor = self._floors[size]
            if floor == 0.0 or seconds <= floor or seconds > _STALL_S:  # after an accident the next call brings it down
                self._floors[size] = seconds
                self._slower[size] = (0, float("inf"))
                return
            count, shortest = self._slower[size]
            count, shortest = count + 1, min(shortest, seconds)
            if count == _IN_A_ROW:
                self._floors[size] = shortest
                count, shortest = 0, float("inf")
            self._slower[size] = (count, shortest)

    def inline(self, rows: int) -> bool:
        """Whether a call with ``rows`` rows is so quick that it may run on the event loop."""
        if rows > INLINE_ROWS:
            return False
        floor = self._floors[rows.bit_length()]
        if floor == 0.0:
            return self.known and self.expect(rows) < INLINE_S
        return floor < INLINE_S and (not self.known or self.expect(rows) < _USUALLY_S)

    def efficient_rows(self, most: int) -> int:
        """Rows from which on more at once bring next to nothing (the fixed part is a twentieth of the time), and only
        make the first of them wait for the last; at most ``most``."""
        if not (self.known or self._guessed) or self.row_s <= 0:
            return most
        rows = self.fixed_s / self.row_s * _EFFICIENT / (1 - _EFFICIENT)
        return max(1, min(most, int(rows)))

    def _fit(self) -> None:
        n, x, xx, y, xy = self._sums
        spread = n * xx - x * x
        if spread > 0.01 * x * x:  # sizes that differ; else only the level is learned, and the slope stays
            self.row_s = max((n * xy - x * y) / spread, 0.0)
        self.row_s = min(self.row_s, y / x)
        self.fixed_s = max((y - self.row_s * x) / n, 0.0)
