"""Trailing-window aggregates."""

from rayplat.data.windows.step_functions import FUNCTIONS, Window, change_points

__all__ = ["FUNCTIONS", "Window", "change_points"]
