"""What scoring a whole table reports."""

from __future__ import annotations

from dataclasses import dataclass

from rayplat.types.data import TableVersion


@dataclass(frozen=True)
class ScoreReport:
    """One batch scoring job. ``scored`` and ``failed`` count rows of the whole job, ``resumed_rows`` those of them that
    an earlier run of it had committed. ``seconds`` is this run's time, ``start_s`` the part of it until the first model
    was loaded. ``rows_per_s_per_core`` counts the time in which workers read, scored and wrote; both rates are of this
    run. ``output`` is None where the input had no rows."""

    job_id: str
    table: TableVersion
    output: TableVersion | None
    model: str
    version: int
    alias: str | None
    rows: int
    scored: int
    failed: int
    resumed_rows: int
    parts: int
    seconds: float
    start_s: float
    rows_per_s: float
    rows_per_s_per_core: float
