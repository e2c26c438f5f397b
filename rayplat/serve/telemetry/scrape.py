"""One Prometheus target for all of serving: every replica of every host, gathered by handle.

A host's own route reaches any one of its replicas, and other ones next time; what Prometheus wants is all of them.
Blocking calls, for processes that are no hosts.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor

from rayplat.serve.deployment import cluster, deploy
from rayplat.serve.pool import names
from rayplat.serve.telemetry.metrics import merged

log = logging.getLogger(__name__)

_AT_ONCE = 16
_TIMEOUT_S = 3.0
_FRESH_S = 1.0  # several scrapers do not ask the hosts several times


class Scrape:
    """The page of now. Hosts that do not answer in time are missing from it, and it says how many."""

    def __init__(self) -> None:
        self._page, self._at = "", float("-inf")

    def page(self) -> str:
        if time.monotonic() - self._at > _FRESH_S:
            self._page, self._at = _gathered(), time.monotonic()
        return self._page


def _gathered() -> str:
    running = [name for name, state in cluster.states().items() if state == "RUNNING" and _has_metrics(name)]
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="scrape") as threads:
        pages = list(threads.map(_pages, running))
    silent = sum(found is None for found in pages)
    heading = "# HELP rayplat_serve_silent_hosts Applications that did not answer this scrape\n"
    heading += f"# TYPE rayplat_serve_silent_hosts gauge\nrayplat_serve_silent_hosts {silent}\n"
    return merged([heading, *(page for found in pages for page in found or ())])


def _has_metrics(name: str) -> bool:
    return names.is_worker(name) or deploy.named(name) is not None


def _pages(name: str) -> list[str] | None:
    try:
        return cluster.broadcast(name, "metrics", timeout_s=_TIMEOUT_S)
    except Exception as e:  # a host that is being replaced must not take the page of all others with it
        log.warning("no metrics of %s: %s", name, e, exc_info=log.isEnabledFor(logging.DEBUG))
        return None
