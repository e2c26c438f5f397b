"""Trailing-window aggregates over tiles."""

from rayplat.data.windows.evaluate import PreparedTiles, TileKernel, evaluate
from rayplat.data.windows.packed import Fetched, Needed, PackedTile, answer, needed, pack
from rayplat.data.windows.pending import push
from rayplat.data.windows.plan import TilePlan
from rayplat.data.windows.tiles import Patch, fold, patch, touched
from rayplat.data.windows.window import FUNCTIONS, Window

__all__ = [
    "FUNCTIONS",
    "Fetched",
    "Needed",
    "PackedTile",
    "Patch",
    "PreparedTiles",
    "TileKernel",
    "TilePlan",
    "Window",
    "answer",
    "evaluate",
    "fold",
    "needed",
    "pack",
    "patch",
    "push",
    "touched",
]
