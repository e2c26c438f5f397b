"""Small synthetic training data with a known structure: late is likelier from B, with wind, and late in the day."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

START = datetime(2013, 6, 1, tzinfo=UTC)
HOLDOUT = datetime(2013, 10, 1, tzinfo=UTC)
FEATURES = ("origin", "dest", "hour", "wind", "empty")


def rows(n: int = 4000, seed: int = 0) -> pa.Table:
    """``n`` flights over five months; ``wind`` has nulls, ``empty`` only nulls, 1 % have no label."""
    random = np.random.default_rng(seed)
    origin = random.choice(["A", "B"], n)
    dest = random.choice(["X", "Y", "Z"], n)
    hour = random.integers(5, 23, n)
    wind = random.gamma(2.0, 5.0, n)
    logit = -2.5 + 1.5 * (origin == "B") + 0.12 * (hour - 5) + 0.08 * wind
    late = random.random(n) < 1 / (1 + np.exp(-logit))
    minutes = np.sort(random.integers(0, 150 * 24 * 60, n))
    return pa.table(
        {
            "flight": [f"F{i}" for i in range(n)],
            "event_time": pa.array([START + timedelta(minutes=int(m)) for m in minutes], pa.timestamp("us", "UTC")),
            "origin": pa.array(origin, pa.string()),
            "dest": pa.array(dest, pa.string()),
            "hour": pa.array(hour, pa.int64()),
            "wind": pa.array(wind, pa.float64(), mask=random.random(n) < 0.05),
            "empty": pa.nulls(n, pa.float32()),
            "label": pa.array(late.astype(np.int8), pa.int8(), mask=random.random(n) < 0.01),
        }
    )
