"""Trailing-window aggregates over tiles."""

from rayplat.data.windows.step_functions import change_points
from rayplat.data.windows.window import FUNCTIONS, TilePlan, Window

__all__ = ["FUNCTIONS", "TilePlan", "Window", "change_points"]
