"""The feature tables of views as sides of a point-in-time join."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rayplat.data.features.declarations import CREATED, FeatureView
from rayplat.data.point_in_time import AsOf, Kernel
from rayplat.data.point_in_time.sides import Side
from rayplat.data.windows import TileKernel

if TYPE_CHECKING:
    import pyarrow as pa

    from rayplat.data.tables.scan import Scan


def kernel(view: FeatureView, *, known_by: bool = False) -> Kernel:
    """How the rows of the view's table answer moments. ``known_by`` leaves out rows created after the moment, where
    the view declares ``created``."""
    if view.windows:
        return TileKernel(view.plan)
    created = CREATED if view.created is not None else None
    cut = known_by and created is not None
    return AsOf(view.keys, view.feature_names, ttl=view.ttl, created=created, known_by=cut)


def side(view: FeatureView, rows: Scan | pa.Table | Sequence[Any], *, known_by: bool = False) -> Side:
    """The view as one side; ``rows`` are those of its table."""
    return Side(view.name, rows, kernel(view, known_by=known_by))
