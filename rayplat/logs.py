"""Logging set-up, called by entry points and actors only; libraries just use ``logging.getLogger(__name__)``."""

from __future__ import annotations

import logging
import sys


def set_up(level: int = logging.INFO) -> None:
    """One line per record on stderr: time, level, logger, message. Calling it twice changes nothing."""
    root = logging.getLogger("rayplat")
    if root.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root.addHandler(handler)
    root.setLevel(level)
    root.propagate = False
