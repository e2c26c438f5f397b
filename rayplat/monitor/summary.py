"""What a profile says about one column, as a plain value. Knows nothing of sketches or whylogs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NUMERIC, CATEGORICAL, OTHER, EMPTY = "numeric", "categorical", "other", "empty"

LEVELS: npt.NDArray[np.float64] = (np.arange(1000) + 0.5) / 1000
"""The quantile levels that a numeric summary holds: midpoints, so each grid point stands for 1/1000 of the rows."""


@dataclass(frozen=True)
class ColumnSummary:
    """One column. ``n`` counts all rows, ``nulls`` those without a value (null or NaN), ``infinite`` the
    infinities, which enter neither quantiles nor moments.

    ``quantiles`` are the values at `LEVELS` (numeric columns; rank error about 0.3 %). ``top`` are
    (item, count) pairs, the most frequent first (categorical columns). ``cardinality`` is an estimate.
    """

    n: int
    nulls: int
    kind: str
    infinite: int = 0
    quantiles: tuple[float, ...] = ()
    mean: float = 0.0
    stddev: float = 0.0
    minimum: float = 0.0
    maximum: float = 0.0
    top: tuple[tuple[str, int], ...] = ()
    cardinality: float = 0.0

    @property
    def present(self) -> int:
        """Rows that carry a usable value."""
        return self.n - self.nulls - self.infinite

    @property
    def null_rate(self) -> float:
        return (self.nulls + self.infinite) / self.n if self.n else 0.0

    @property
    def top_is_complete(self) -> bool:
        """Whether ``top`` holds every category with its exact count."""
        return self.kind == CATEGORICAL and sum(count for _, count in self.top) == self.present

    def cdf(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Share of the present values ``<= point``, for each point, to 1/1000."""
        grid = np.asarray(self.quantiles)
        return np.searchsorted(grid, points, side="right") / max(len(grid), 1)
