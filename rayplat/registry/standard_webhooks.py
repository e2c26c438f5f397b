"""What is sent to a webhook, as Standard Webhooks 1.0 says (https://www.standardwebhooks.com), and when again.

Headers ``webhook-id`` (the same for every try), ``webhook-timestamp`` (seconds since 1970, of this try) and
``webhook-signature`` (``v1,<base64 of the HMAC-SHA256 over "id.timestamp.body">``); the body is
``{"data","timestamp","type"}``. Pure: it sends nothing and reads no clock.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from rayplat.artifacts.manifest import canonical
from rayplat.errors import InvalidInput
from rayplat.types import EVENTS, TEST_EVENT, Event

_PREFIX = "whsec_"
_MIN_BYTES, _MAX_BYTES = 24, 64
_PATTERN = re.compile(r"\*|[a-z_]+\.(\*|[a-z_]+)")
_AGAIN = {408, 425, 429}
_BASE_S = 2.0


def new_secret() -> str:
    """A fresh secret of 32 random bytes, in the form ``whsec_<base64>``."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def check_secret(secret: str) -> str:
    """``secret`` itself, or `InvalidInput`: ``whsec_`` and the base64 of 24 to 64 bytes."""
    try:
        size = len(base64.b64decode(secret.removeprefix(_PREFIX), validate=True))
    except (binascii.Error, ValueError, AttributeError):
        size = 0
    if not isinstance(secret, str) or not secret.startswith(_PREFIX) or not _MIN_BYTES <= size <= _MAX_BYTES:
        raise InvalidInput("secret", f"'{_PREFIX}' and the base64 of {_MIN_BYTES} to {_MAX_BYTES} bytes is needed")
    return secret


def check_events(events: tuple[str, ...]) -> tuple[str, ...]:
    """The filter itself, each entry once, or `InvalidInput`: names of events, ``promotion.*`` or ``*``."""
    nouns = {name.partition(".")[0] for name in EVENTS}
    for event in events:
        known = isinstance(event, str) and _PATTERN.fullmatch(event)
        if not known or not (event == "*" or event in EVENTS or (event.endswith(".*") and event[:-2] in nouns)):
            raise InvalidInput("events", f"{str(event)[:80]!r} is none of {', '.join(EVENTS)}, <noun>.* or *")
    if not events:
        raise InvalidInput("events", "name at least one event, or '*' for all")
    return tuple(dict.fromkeys(events))


def wants(events: tuple[str, ...], webhook_id: str, event: Event) -> bool:
    """Whether a webhook with the filter ``events`` is told of ``event``; a test is for the one it names."""
    if event.event == TEST_EVENT:
        return event.subject == webhook_id
    return any(e in ("*", event.event) or (e.endswith(".*") and event.event.startswith(e[:-1])) for e in events)


def message_id(webhook_id: str, event: Event) -> str:
    """The id of the message that tells this webhook of this event: the same for every try, so receivers can drop
    what they have had."""
    return f"msg_{webhook_id}_{event.seq}"


def body(event: Event) -> bytes:
    """Canonical JSON: the same bytes whenever it is sent."""
    data = {**event.body, "seq": event.seq, "subject": event.subject}
    at = event.at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return canonical({"type": event.event, "timestamp": at, "data": data})


def signature(secret: str, msg_id: str, timestamp: int, content: bytes) -> str:
    """``v1,<base64>``."""
    key = base64.b64decode(secret.removeprefix(_PREFIX))
    digest = hmac.new(key, f"{msg_id}.{timestamp}.".encode() + content, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def headers(secret: str, msg_id: str, at: datetime, content: bytes) -> dict[str, str]:
    """The headers of one try at ``at``."""
    timestamp = int(at.timestamp())
    return {
        "content-type": "application/json",
        "webhook-id": msg_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(secret, msg_id, timestamp, content),
    }


@dataclass(frozen=True)
class Answer:
    """What became of one try: an HTTP status, or None where there was no answer, and why."""

    status: int | None
    reason: str = ""
    retry_after_s: float | None = None
    refused: bool = False

    @property
    def delivered(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


@dataclass(frozen=True)
class Decision:
    """``park``: no more tries until somebody asks; else the next one after ``wait_s``."""

    park: bool
    wait_s: float = 0.0


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential pauses from 2 s up to ``max_s``, each with jitter. An answer that trying again is unlikely to change
    (a redirect, most 4xx, an address that is not permitted) parks the webhook after ``park_after`` tries."""

    max_s: float = 900.0
    park_after: int = 5

    def decide(self, answer: Answer, failures: int, jitter: float) -> Decision:
        """After the ``failures``-th failed try (1 for the first); ``jitter`` in [0, 1) is a random number."""
        status = answer.status
        hopeless = answer.refused or (status is not None and status < 500 and status not in _AGAIN)
        if status == 410 or (hopeless and failures >= self.park_after):
            return Decision(True)
        wait_s = min(self.max_s, _BASE_S * 2.0 ** min(failures - 1, 30)) * (0.5 + jitter / 2)
        if answer.retry_after_s is not None and (status in _AGAIN or status == 503):
            wait_s = max(wait_s, min(answer.retry_after_s, self.max_s))
        return Decision(False, wait_s)


def retry_after_s(found: Mapping[str, str], now: datetime) -> float | None:
    """Seconds that a ``Retry-After`` header asks for (a number or an HTTP date); None without one that can be read."""
    text = found.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, (parsedate_to_datetime(text) - now) / timedelta(seconds=1))
    except (ValueError, TypeError):
        return None
