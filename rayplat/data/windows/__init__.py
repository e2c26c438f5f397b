"""Trailing-window aggregates over tiles."""

from rayplat.data.windows.evaluate import PreparedTiles, TileKernel, evaluate
from rayplat.data.windows.step_functions import change_points
from rayplat.data.windows.tiles import Patch, fold, patch, touched
from rayplat.data.windows.window import FUNCTIONS, TilePlan, Window

__all__ = [
    "FUNCTIONS",
    "Patch",
    "PreparedTiles",
    "TileKernel",
    "TilePlan",
    "Window",
    "change_points",
    "evaluate",
    "fold",
    "patch",
    "touched",
]
