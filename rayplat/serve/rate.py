"""How many requests a caller may send: one rate limit for each token. Pure but for the clock it is handed.

The generic cell rate algorithm (ITU-T I.371, annex A: a leaky bucket as a virtual schedule): all that is kept of a
caller is the time at which its bucket would be full again, one number. Callers that have been quiet longest leave
first when there are too many, and one whose bucket is full again loses nothing by that.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

from rayplat.errors import Overloaded
from rayplat.types import Limits

_CALLERS = 4096
_NOBODY = "callers without a token"


class RateLimit:
    """At most ``rate`` requests per second and caller in the long run, ``burst`` of them at once."""

    def __init__(
        self, rate: float, burst: int, callers: int = _CALLERS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._every_s = 1 / rate
        self._slack_s = (max(burst, 1) - 1) / rate
        self._callers, self._clock = callers, clock
        self._full_at: OrderedDict[Hashable, float] = OrderedDict()
        self.refused = 0

    @classmethod
    def of(cls, limits: Limits, clock: Callable[[], float] = time.monotonic) -> RateLimit | None:
        """The limit that an endpoint declares; None where it declares none."""
        return None if limits.rate is None else cls(limits.rate, limits.burst, clock=clock)

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, caller: Hashable | None, who: str = "") -> None:
        """Count one request of ``caller`` (who shares nothing with others; None: all that have no token, together).

        Raises `Overloaded` saying after how many seconds the next one is let in; a refused one does not count.
        """
        now = self._clock()
        full_at = max(self._full_at.get(caller, now), now)
        early_s = full_at - now - self._slack_s
        if early_s > 1e-9:
            self.refused += 1
            name = who or (str(caller) if caller is not None else _NOBODY)
            reason = f"at most {1 / self._every_s:g} requests per second and token are taken here"
            raise Overloaded(f"the rate limit of {name}", reason, early_s)
        self._full_at[caller] = full_at + self._every_s
        self._full_at.move_to_end(caller)
        if len(self._full_at) > self._callers:
            self._full_at.popitem(last=False)
