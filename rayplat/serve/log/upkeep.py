"""Keeping the inference log's table fit: a commit every few seconds makes a small file for each day it touches.

Files of a day are joined once there are many. Joining is a commit of its own that says that no data changed: whoever
reads a version goes on reading it, appends beside it are not held up, and of two commits that meet the later one
plans again on what is there (`rayplat.data.tables.upkeep`).
"""

from __future__ import annotations

import functools
import logging
import operator
from collections import Counter
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from rayplat.errors import Conflict
from rayplat.serve.log import schema as log_schema

if TYPE_CHECKING:
    from rayplat.data.tables import Tables

log = logging.getLogger(__name__)

_SMALL_BYTES = 96 << 20


def compact(tables: Tables, least_files: int) -> int:
    """Join the small files of each day that has at least ``least_files`` of them; the number of days joined."""
    from rayplat.data.tables import upkeep

    if log_schema.TABLE not in tables.names():
        return 0
    days = crowded(tables, least_files)
    if not days:
        return 0
    where = functools.reduce(operator.or_, (pc.field("date") == day for day in days))
    try:
        upkeep.compact(tables, log_schema.TABLE, where=where)
    except Conflict as e:  # somebody else was joining them
        log.info("inference log: %s", e)
        return 0
    return len(days)


def crowded(tables: Tables, least_files: int) -> list[object]:
    """The days with at least ``least_files`` small files."""
    files = tables.scan(log_schema.TABLE).files
    small = Counter(file.partition["date"] for file in files if file.size_bytes < _SMALL_BYTES)
    return sorted((day for day, count in small.items() if count >= least_files), key=str)
