"""The point-in-time join: the contract and its kernel, and the plan that runs it on the cluster."""

from rayplat.data.point_in_time.kernel import AsOf, FeatureRows, Index, Kernel, Prepared, index, join
from rayplat.data.point_in_time.plan import Joined, join_on_cluster
from rayplat.data.point_in_time.sides import Side
from rayplat.data.point_in_time.times import micros

__all__ = [
    "AsOf",
    "FeatureRows",
    "Index",
    "Joined",
    "Kernel",
    "Prepared",
    "Side",
    "index",
    "join",
    "join_on_cluster",
    "micros",
]
