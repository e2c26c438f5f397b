"""Declarations of features, as values."""

from rayplat.data.features.declarations import DTYPES, Entity, FeatureService, FeatureView, Field

__all__ = ["DTYPES", "Entity", "FeatureService", "FeatureView", "Field"]
