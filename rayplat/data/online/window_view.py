"""Reading a view of windows at the request's own moment."""

from __future__ import annotations

from rayplat.data.features import FeatureView


class WindowReader:
    """One version of a view of windows."""

    def __init__(self, view: FeatureView) -> None:
        self._plan = view.plan
