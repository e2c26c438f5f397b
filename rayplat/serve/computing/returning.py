"""Whether it pays to wait a little for those who were just answered. Pure.

Clients that wait for each answer before they send the next request come back soon after a call has ended. A model that
begins again at once with the one request that happens to wait computes 1 and 31 in turn, where it could compute 32.
With k requests waiting, m expected in w seconds and a call of n rows taking a + b n, the sum of all waiting times is
smaller by waiting if

    m (a - b k) > (k + m) w

(without: k done at a + b k, m a call later; with: all at w + a + b (k + m)). How many come back, and how soon, is
learned from what has happened after earlier calls, whether anybody waited for it or not.
"""

from __future__ import annotations

from rayplat.serve.computing.cost import CostCurve

_LEARN = 4  # calls that what is learned looks back on
_LATE = 1.5  # times the usual: then the rest is not coming


class Returning:
    """After each call: how many of its ``members`` came back while waiting for them could have paid."""

    __slots__ = ("_after_s", "_at", "_came", "_horizon_s", "_latest_s", "_members", "_share")

    def __init__(self) -> None:
        self._members = self._came = 0
        self._at = self._horizon_s = self._latest_s = 0.0
        self._share = self._after_s = 0.0

    def answered(self, members: int, curve: CostCurve, now: float) -> None:
        """A call with ``members`` requests has ended at ``now``."""
        if self._members:
            self._share += (self._came / self._members - self._share) / _LEARN
            if self._came:
                self._after_s += (self._latest_s - self._after_s) / _LEARN
        self._members, self._came, self._at, self._horizon_s = members, 0, now, curve.fixed_s

    def came(self, now: float) -> None:
        """A request came at ``now``."""
        after_s = now - self._at
        if self._came < self._members and after_s < self._horizon_s:
            self._came += 1
            self._latest_s = after_s

    def pause_s(self, curve: CostCurve, rows: int, requests: int, now: float) -> float:
        """How long the ``requests`` that wait (of ``rows`` rows) should wait for more; 0 to begin."""
        expected = self._share * (self._members - self._came)
        gone_s = now - self._at
        until_s = self._after_s * _LATE - gone_s
        if expected < 0.5 or until_s <= 0:
            return 0.0
        left_s = max(self._after_s - gone_s, self._after_s / 10)
        gain = expected * (curve.fixed_s - curve.row_s * rows)
        return until_s if gain > (requests + expected) * left_s else 0.0
