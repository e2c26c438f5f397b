"""Logging set-up, called by entry points and actors only; libraries just use ``logging.getLogger(__name__)``."""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from typing import Any, TextIO

_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
_PLAIN = re.compile(r"[^\s\"'=]+")


def set_up(level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """One line per record on ``stream`` (default: stderr): time, level, logger, message, fields. Calling it twice
    changes nothing."""
    root = logging.getLogger("rayplat")
    if root.handlers:
        return
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(FieldsFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root.addHandler(handler)
    root.setLevel(level)
    root.propagate = False


def set_up_in_replica() -> None:
    """`set_up` in a replica of Ray Serve, which puts a logger of its own in the place of stderr. At the level that
    keeps Serve itself quiet it drops all that a host says. So the lines go to the process's stderr, like an actor's."""
    set_up(stream=sys.__stderr__)


def set_up_in_actor() -> None:
    """`set_up` where this process runs a Ray actor; in any other process that is its entry point's business."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized() and ray.get_runtime_context().get_actor_id() is not None:
        set_up()


class FieldsFormatter(logging.Formatter):
    """Appends a record's fields (``extra``) to its message as ``key=value``, in the order given; None is left out.
    A value with spaces, quotes or ``=`` is written as a JSON string, so that a field never breaks its line."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is the standard library's
        given = {key: value for key, value in vars(record).items() if key not in _STANDARD and value is not None}
        fields = {key: value for key, value in given.items() if not key.startswith("_")}  # Ray adds some of its own
        return " ".join([super().formatMessage(record), *(f"{key}={_text(value)}" for key, value in fields.items())])

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """As the standard library does, but not by ``print``, which Serve replaces in a replica."""
        return "".join(traceback.format_exception(*ei)).rstrip("\n")


def _text(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
