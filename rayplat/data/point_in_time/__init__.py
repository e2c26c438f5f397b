"""The point-in-time join: the contract and its kernel, and the plan that runs it on the cluster."""

from rayplat.data.point_in_time.kernel import FeatureRows, Index, index, join, micros

__all__ = ["FeatureRows", "Index", "index", "join", "micros"]
