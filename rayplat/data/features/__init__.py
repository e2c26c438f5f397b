"""Declarations of features, as values."""

from rayplat.data.features.declarations import (
    CREATED,
    DTYPES,
    EVENT_TIME,
    KEY_DTYPES,
    Derived,
    Entity,
    FeatureView,
    Field,
)
from rayplat.data.features.expressions import Expr, col, lit
from rayplat.data.features.services import FeatureService, OnRequestView, View, view_from_dict
from rayplat.data.windows import Window

__all__ = [
    "CREATED",
    "DTYPES",
    "EVENT_TIME",
    "KEY_DTYPES",
    "Derived",
    "Entity",
    "Expr",
    "FeatureService",
    "FeatureView",
    "Field",
    "OnRequestView",
    "View",
    "Window",
    "col",
    "lit",
    "view_from_dict",
]
