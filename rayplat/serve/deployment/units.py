"""Durations and counts as people write them: ``250ms``, ``1m30s``, ``10k``. Pure."""

from __future__ import annotations

import re

from rayplat.errors import InvalidInput

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?(?:e-?[0-9]+)?)\s*(us|ms|s|m|h|d)\s*")
_COUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kM]?)")
_TIMES = {"": 1, "k": 1000, "M": 1_000_000}


def seconds(text: object) -> float:
    """``5m`` as 300.0. Raises `InvalidInput` for anything but a text with units."""
    found = text.strip() if isinstance(text, str) else ""
    position, total = 0, 0.0
    while match := _PART.match(found, position):
        total += float(match[1]) * _SECONDS[match[2]]
        position = match.end()
    if not found or position != len(found):
        raise InvalidInput("duration", f"{_shown(text)} is no duration: write a number with its unit, such as 5s or 2m")
    return total


def milliseconds(text: object) -> float:
    """``2.5ms`` as 2.5."""
    found = text.strip() if isinstance(text, str) else text
    if isinstance(found, str) and (match := _PART.fullmatch(found)) and match[2] == "ms":
        return float(match[1])  # without the rounding of a way through seconds
    return seconds(text) * 1000


def count(value: object) -> int:
    """``10k`` as 10,000; whole numbers as they are. Raises `InvalidInput`."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _COUNT.fullmatch(value.strip()) if isinstance(value, str) else None
    number = float(match[1]) * _TIMES[match[2]] if match else 0.5
    if number != int(number):
        raise InvalidInput("number", f"{_shown(value)} is no whole number such as 256 or 10k")
    return int(number)


def duration_text(value_s: float) -> str:
    """The shortest text that `seconds` reads as exactly this."""
    for unit in ("d", "h", "m"):
        if value_s and value_s % _SECONDS[unit] == 0:
            return f"{int(value_s / _SECONDS[unit])}{unit}"
    return f"{_number(value_s)}s"


def milliseconds_text(value_ms: float) -> str:
    """The text that `milliseconds` reads as exactly this."""
    return f"{_number(value_ms)}ms"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _shown(value: object) -> str:
    found = repr(value)
    return found if len(found) <= 40 else found[:37] + "..."
