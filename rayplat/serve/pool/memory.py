"""How much memory this process uses, and giving back what it no longer needs. Linux; elsewhere nothing is known."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
from pathlib import Path


def resident_bytes() -> int:
    """The resident set of this process (``/proc/self/statm``), 0 where the system does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def give_back() -> None:
    """Collect garbage and return free heap pages to the system (``malloc_trim`` of glibc). Takes milliseconds."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
