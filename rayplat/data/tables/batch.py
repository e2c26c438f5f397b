"""One batch of rows on its way into a table: written as files, and judged by the checks. Knows files and checks, and
nothing of commits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from rayplat.data.tables.files import NewFile, write_files
from rayplat.data.tables.place import Place
from rayplat.data.tables.scan import Scan
from rayplat.data.tables.schema import conform, delta_schema
from rayplat.errors import InvalidInput

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from ray.data import Dataset

    from rayplat.data.tables.checks import Checks, Findings

_CHECKS = "rayplat checks: "


@dataclass(frozen=True)
class Written:
    """The files of one write with the ``schema`` they have, and what the checks found in them."""

    files: list[NewFile]
    schema: pa.Schema | None
    findings: Findings | None = None


def write(
    place: Place,
    data: pa.Table | Dataset,
    schema: pa.Schema | None,
    by: Sequence[str],
    checks: Checks | None,
    *,
    fill: bool = False,
) -> Written:
    """Write ``data`` in the columns of ``schema`` (None: its own), a Dataset on the workers. Raises `BadRows` for what
    can be seen before a byte is written; the rest is `judge`'s."""
    if not isinstance(data, pa.Table):
        if not hasattr(data, "write_datasink"):
            raise InvalidInput("data", f"a pyarrow.Table or a Ray Dataset is needed, got {type(data).__name__}")
        from rayplat.data.tables import ray_io

        return ray_io.write(data, ray_io.Target(place, schema, tuple(by), checks, fill))
    rows = conform(data, schema if schema is not None else delta_schema(data.schema), fill=fill)
    findings = None
    if checks:
        from rayplat.data.tables.checks import inspect

        findings = inspect(rows, checks)
        if not checks.unique:
            findings.raise_if_bad(place.name)  # before a byte is written
    return Written(write_files(place, rows, by), rows.schema, findings)


def checks_of(table: DeltaTable, given: Checks | None) -> Checks | None:
    """The rules stored with the table and those ``given`` with one write."""
    stored = stored_checks(table)
    return stored.also(given) if stored else given


def stored_checks(table: DeltaTable) -> Checks | None:
    """The checks that `create` was given; they lie in the table's description."""
    text = table.metadata().description or ""
    if not text.startswith(_CHECKS):
        return None
    from rayplat.data.tables.checks import Checks

    return Checks.from_dict(json.loads(text.removeprefix(_CHECKS)))


def judge(place: Place, written: Written, others: Scan | None) -> None:
    """Raises `BadRows` where the checks found something, uniqueness against the rows of ``others`` included."""
    found = written.findings
    if found is None:
        return
    for key in found.checks.unique if others is not None else ():
        reach = found.reach(key)
        for part in others.prune(reach).batches(list(key), reach):  # type: ignore[union-attr]
            found = found.seen(key, part)
    found.raise_if_bad(place.name)


def described(checks: Checks | None) -> str | None:
    """The description of a table that keeps ``checks``."""
    return _CHECKS + json.dumps(checks.to_dict()) if checks else None
