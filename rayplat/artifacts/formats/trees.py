"""Decision trees as arrays that index each other: checked here, because the libraries that walk them do not."""

from __future__ import annotations

from typing import Any

import numpy as np

from rayplat.errors import InvalidInput


def check_children(path: str, left: Any, right: Any, feature: Any, width: int) -> None:
    """Nothing, or `InvalidInput`: node 0 is the root, a leaf has no child (-1), every other node two
    in range, none is reached twice (so no walk is endless), and whoever has children asks for a feature below
    ``width``."""
    left, right, feature = (np.asarray(values, dtype=np.int64).ravel() for values in (left, right, feature))
    nodes = len(left)
    if nodes == 0 or len(right) != nodes or len(feature) != nodes:
        raise InvalidInput(path, "a tree's lists of nodes have different lengths")
    inner = left >= 0
    children = np.concatenate([left[inner], right[inner]])
    if (left[~inner] != -1).any() or (right[~inner] != -1).any() or (children <= 0).any() or (children >= nodes).any():
        raise InvalidInput(path, "a tree's node points outside of the tree")
    if len(np.unique(children)) != len(children):
        raise InvalidInput(path, "a tree's node is reached in two ways")
    if ((feature[inner] < 0) | (feature[inner] >= width)).any():
        raise InvalidInput(path, f"a tree asks for a feature that is none of the {width}")
