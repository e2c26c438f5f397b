"""What the log's writer knows of its hosts: which are there, and what the ones that died took with them. Pure.

A host says every few seconds how it stands, and says goodbye. One that falls silent without a goodbye was killed, or
is cut off; what it had not got acknowledged when it was last heard is the least that was lost. A spooled one loses
nothing: its rows are on its disk and will be delivered.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from rayplat.serve.log.spool import PREFIX

_SILENT_S = 60.0
_FORGET_S = 3600.0


@dataclass
class _Host:
    heard: float
    unacknowledged: int = 0
    dropped: int = 0


class Hosts:
    """Counts since this process started. ``clock`` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._hosts: dict[str, _Host] = {}
        self._closed_dropped = self._gone = self._lost = 0

    def seen(self, epoch: str, counts: dict[str, int], closed: bool) -> None:
        """A host's own counts; ``closed``: it has ended and everything is delivered."""
        host = self._host(epoch)
        host.unacknowledged, host.dropped = counts["waiting"], counts["dropped"]
        if closed:
            self._closed_dropped += host.dropped
            del self._hosts[epoch]

    def sent(self, epoch: str) -> None:
        """A batch of it came."""
        self._host(epoch)

    def committed(self, epoch: str, rows: int) -> None:
        """Rows of it are in the table."""
        host = self._hosts.get(epoch)
        if host is not None:
            host.unacknowledged = max(0, host.unacknowledged - rows)

    def counts(self) -> dict[str, int]:
        """``hosts`` that are there, epochs that were never closed and the rows that are known to be lost with them,
        and rows that hosts dropped."""
        now = self._clock()
        for epoch, host in list(self._hosts.items()):
            if now - host.heard > _FORGET_S:
                self._bury(epoch, host)
        silent = {e: h for e, h in self._hosts.items() if now - h.heard > _SILENT_S and not e.startswith(PREFIX)}
        return {
            "hosts": len(self._hosts) - len(silent),
            "unclosed_epochs": self._gone + len(silent),
            "rows_lost_at_least": self._lost + sum(host.unacknowledged for host in silent.values()),
            "rows_dropped": self._closed_dropped + sum(host.dropped for host in self._hosts.values()),
        }

    def _host(self, epoch: str) -> _Host:
        host = self._hosts.setdefault(epoch, _Host(0.0))
        host.heard = self._clock()
        return host

    def _bury(self, epoch: str, host: _Host) -> None:
        self._closed_dropped += host.dropped
        if not epoch.startswith(PREFIX):
            self._gone += 1
            self._lost += host.unacknowledged
        del self._hosts[epoch]
