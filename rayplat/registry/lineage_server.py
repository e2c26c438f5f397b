"""Telling a lineage server (Marquez, DataHub, …) what happens: OpenLineage events over HTTP, each at least once.

Follows the audit log; how far it has come is in the record. So it never holds up a change, loses nothing while the
server is away, and after a crash sends the last few again, which are the same runs. `Sender.tick` sends what is new.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rayplat.errors import InvalidInput, RayplatError, Unavailable
from rayplat.registry.calls import Registry
from rayplat.registry.record import happenings
from rayplat.settings import LineageSettings, Settings

if TYPE_CHECKING:
    from rayplat.types import ModelVersion

log = logging.getLogger(__name__)

_PAGE = 100  # entries of the audit log between two notes of how far it has come
_RETRIED = (408, 425, 429)  # of the 4xx answers these say "later", the others "never"
_LONGEST_PAUSE_S = 300.0


class Sender:
    """Sends from ``registry`` to the server in ``settings``; ``columns`` as in `openlineage.Events`.

    Raises `InvalidInput` where the settings name no server, or something that is no address.
    """

    def __init__(
        self,
        registry: Registry,
        settings: LineageSettings,
        columns: Callable[[ModelVersion], Sequence[Sequence[str]]] | None = None,
    ) -> None:
        from rayplat.registry.openlineage import Events

        self._registry, self._settings = registry, settings
        self._events = Events(settings.namespace, columns)
        self._transport = _transport(settings)

    def tick(self) -> int:
        """Send everything that is new; how many events arrived. Raises `Unavailable` where the server does not take
        them now: what arrived is noted, the rest is for the next call."""
        arrived = 0
        while found := self._registry.read(happenings.after, self._registry.read(happenings.sent), _PAGE):
            for one in found:
                for event in self._events.of(one):
                    arrived += self._sent(event)
                if one.version is not None or one.promotion is not None or one.head is not None:
                    self._registry.write(happenings.note_sent, one.entry.seq)
            self._registry.write(happenings.note_sent, found[-1].entry.seq)
        return arrived

    def run(self, stop: threading.Event) -> None:
        """`tick` until ``stop``, with growing pauses while the server is away."""
        failures = 0
        while not stop.wait(self._pause_s(failures)):
            try:
                self.tick()
                failures = 0
            except RayplatError as e:
                failures += 1
                log.warning("lineage events wait (%d tries): %s", failures, e)
            except Exception:
                failures += 1
                log.exception("lineage events wait (%d tries)", failures)

    def _pause_s(self, failures: int) -> float:
        if failures == 0:
            return self._settings.poll_s
        return random.uniform(0.5, 1.0) * float(min(_LONGEST_PAUSE_S, self._settings.poll_s * 2**failures))

    def _sent(self, event: Any) -> bool:
        import requests

        try:
            self._transport.emit(event)
        except requests.HTTPError as e:
            status = 0 if e.response is None else e.response.status_code
            if 400 <= status < 500 and status not in _RETRIED:
                log.error("the lineage server refused an event of %s: %s", event.job.name, e)
                return False
            raise Unavailable("the lineage server", f"{self._settings.url} answered {status}") from e
        except requests.RequestException as e:
            raise Unavailable("the lineage server", f"{self._settings.url} cannot be reached: {e}") from e
        return True


def start(registry: Registry, settings: Settings) -> threading.Event | None:
    """A thread that sends; setting the returned event ends it. None where the settings name no server."""
    if settings.lineage.url is None:
        return None
    from rayplat.artifacts.store import ArtifactStore
    from rayplat.registry import sheet

    stop, store = threading.Event(), ArtifactStore.of(settings)
    sender = Sender(registry, settings.lineage, lambda version: sheet.columns(version, store))
    threading.Thread(target=sender.run, args=(stop,), name="lineage-server", daemon=True).start()
    return stop


def _transport(settings: LineageSettings) -> Any:
    from openlineage.client.transport.http import ApiKeyTokenProvider, HttpConfig, HttpTransport, TokenProvider

    if settings.url is None:
        raise InvalidInput("lineage.url", "no lineage server is set")
    key = settings.api_key.get_secret_value() if settings.api_key is not None else None
    auth = TokenProvider({}) if key is None else ApiKeyTokenProvider({"api_key": key})
    retry = {"total": 0, "allowed_methods": ["POST"]}  # `Sender.run` waits; a call that hangs would only hide it
    try:
        return HttpTransport(
            HttpConfig(settings.url, settings.endpoint, timeout=settings.timeout_s, auth=auth, retry=retry)
        )
    except ValueError as e:
        raise InvalidInput("lineage.url", str(e)) from e
