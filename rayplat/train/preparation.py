"""One look at the training rows before any training: vocabularies, quantiles, a sample for trials, an example.

`prepare` runs in a Ray task, so the rows never pass through the driver; only what it returns does (some MB).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayplat.actors import give_way
from rayplat.errors import InvalidInput
from rayplat.train.plan import TrainPlan
from rayplat.train.tabular import Fitted, Rows, encode, feature_specs, fit

if TYPE_CHECKING:
    from rayplat.data.tables import Tables

TRIAL_ROWS = 40_000
VALID_ROWS = 12_000
EXAMPLE_ROWS = 4


@dataclass(frozen=True)
class Prepared:
    """``rows``: labelled training rows in all; ``trial`` and ``valid``: samples from before and after
    ``TrainPlan.valid_from``; ``example``: a few rows by column, as a request would carry them."""

    fitted: Fitted
    rows: int
    trial: Rows
    valid: Rows
    example: dict[str, list[Any]]


def prepare(tables: Tables, plan: TrainPlan) -> Prepared:
    """Raises `SchemaMismatch` for a column that cannot be a feature, `InvalidInput` where nothing is left to learn."""
    give_way()
    time, label = plan.training_set.event_time, plan.training_set.label
    table = tables.read(plan.training_set.data, columns=[*plan.columns, time], where=plan.training_rows())
    features = feature_specs(table.schema, plan.features, plan.required)
    classes = sorted(pc.unique(table[label]).to_pylist())
    if classes != [0, 1]:
        before = f"before {plan.holdout_from:%Y-%m-%d}"
        raise InvalidInput(label, f"the labelled rows {before} must hold both 0 and 1, not {classes or 'none at all'}")
    random = np.random.default_rng(plan.seed)
    late = pc.greater_equal(table[time], pa.scalar(plan.valid_from, pa.timestamp("us", tz="UTC")))
    fitted = fit(table, features)
    trial = _sample(table.filter(pc.invert(late)), TRIAL_ROWS, random)
    valid = _sample(table.filter(late), VALID_ROWS, random)
    example = _sample(table, EXAMPLE_ROWS, random).select(list(plan.features))
    return Prepared(
        fitted,
        table.num_rows,
        encode(trial, fitted, label),
        encode(valid, fitted, label),
        {name: example[name].to_pylist() for name in plan.features},
    )


def _sample(table: pa.Table, rows: int, random: np.random.Generator) -> pa.Table:
    if table.num_rows <= rows:
        return table
    return table.take(pa.array(np.sort(random.choice(table.num_rows, rows, replace=False))))
