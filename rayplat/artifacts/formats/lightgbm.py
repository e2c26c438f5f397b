"""LightGBM's text models. A pickled estimator (``model.pkl`` of scikit-learn's interface) is a pickle, not this."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from rayplat.artifacts.formats import columns as tabular
from rayplat.artifacts.formats.tree import Tree
from rayplat.artifacts.formats.trees import check_children
from rayplat.errors import InvalidInput, TooLarge, Unavailable

_MAX_BYTES = 1 << 30
_END = re.compile(rb"\nend of parameters\r?\n")
_START = re.compile(rb"tree\r?\nversion=v[234]\r?\n")


class LightgbmReader:
    """Files ``*.lgb``, and text that begins with ``tree`` and a version."""

    name = "lightgbm"
    suffixes = (".lgb",)

    def recognises(self, head: bytes) -> bool:
        return bool(_START.match(head))

    def audit(self, path: str, file: BinaryIO, tree: Tree) -> str:
        if tree.sizes[path] > _MAX_BYTES:
            raise TooLarge(path, tree.sizes[path], _MAX_BYTES)
        content = file.read()
        if not _START.match(content):
            raise InvalidInput(path, "it is no text model of LightGBM; save it with Booster.save_model")
        try:
            _check(content, path)
        except (KeyError, ValueError, OverflowError, UnicodeDecodeError) as e:
            raise InvalidInput(path, f"it is cut off or no model as LightGBM writes it: {e!r}"[:300]) from e
        return ""

    def load(self, folder: Path, path: str, names: tuple[str, ...]) -> LightgbmModel:
        try:
            import lightgbm
        except ImportError as e:
            raise Unavailable("lightgbm", "these models need it: pip install 'rayplat[formats]'") from e
        try:
            booster = lightgbm.Booster(model_str=(folder / path).read_text("utf-8"))
        except Exception as e:
            raise InvalidInput(path, f"LightGBM cannot read it: {str(e)[:300]}") from e
        return LightgbmModel(booster, names)


class LightgbmModel:
    """``prediction``: [n], or [n, classes]; what the objective gives (a probability for ``binary``)."""

    def __init__(self, booster: Any, names: tuple[str, ...]) -> None:
        self.booster = booster
        self.width = int(booster.num_feature())
        own = booster.feature_name()
        placeholders = own == [f"Column_{i}" for i in range(len(own))]
        self.names = names if placeholders and names else tuple(own)

    def predict(self, columns: Mapping[str, Any]) -> Mapping[str, npt.NDArray[Any]]:
        x = tabular.matrix(columns, self.names, self.width, None)
        return tabular.outputs("prediction", self.booster.predict(x, num_threads=1), len(x))


def _check(content: bytes, path: str) -> None:
    """Sizes first: ``tree_sizes`` says how many bytes each tree has, and after the last one stands ``end of trees``."""
    head, separator, _ = content.partition(b"\nTree=0\n")
    fields = _fields(head)
    sizes = [int(size) for size in fields.get("tree_sizes", "").split()]
    at, width = (len(head) + 1 if separator else 0), int(fields["max_feature_idx"]) + 1
    if bool(sizes) != bool(separator) or width < 1 or len(fields["feature_names"].split()) != width:
        raise InvalidInput(path, "its header does not fit its trees")
    for i, size in enumerate(sizes):
        block = content[at : at + size]
        if size < 1 or len(block) != size or not block.startswith(b"Tree=%d\n" % i):
            raise InvalidInput(path, f"the tree {i} is not where the header says")
        _check_tree(_fields(block), width, path)
        at += size
    rest = content[at:]
    if b"\nparameters:" in rest and not _END.search(rest):
        raise InvalidInput(path, "it is cut off: no end of its parameters")
    if b"end of trees" not in content[at : at + 32] and sizes:
        raise InvalidInput(path, "it is cut off: no end of its trees")


def _check_tree(fields: dict[str, str], width: int, path: str) -> None:
    leaves = int(fields["num_leaves"])
    if leaves < 1 or len(fields["leaf_value"].split()) != leaves:
        raise InvalidInput(path, "a tree has another number of leaves than it says")
    if leaves == 1:
        return
    left, right, feature = (
        np.array(fields[name].split(), dtype=np.int64) for name in ("left_child", "right_child", "split_feature")
    )
    counted = {len(left), len(right), len(feature), *(len(fields[n].split()) for n in ("threshold", "decision_type"))}
    if counted != {leaves - 1}:
        raise InvalidInput(path, "a tree's lists of nodes have different lengths")
    _check_categories(fields, np.array(fields["threshold"].split(), dtype=np.float64), path)
    # a negative child -1 - i is the leaf i: give leaves the numbers after the inner nodes
    left, right = (np.where(side >= 0, side, leaves - 2 - side) for side in (left, right))
    none = np.full(leaves, -1)
    check_children(path, np.append(left, none), np.append(right, none), np.append(feature, none), width)


def _check_categories(fields: dict[str, str], threshold: npt.NDArray[np.float64], path: str) -> None:
    """The threshold of a categorical node is the number of a bit set, which two more lists hold."""
    sets = int(fields["num_cat"])
    kinds = np.array(fields["decision_type"].split(), dtype=np.int64)
    asked = threshold[kinds & 1 == 1]
    if sets == 0 and len(asked) == 0:
        return
    bounds = np.array(fields["cat_boundaries"].split(), dtype=np.int64)
    words = len(fields["cat_threshold"].split())
    sound = len(bounds) == sets + 1 and bounds[0] == 0 and (np.diff(bounds) >= 0).all() and bounds[-1] == words
    if not sound or ((asked < 0) | (asked >= sets)).any():
        raise InvalidInput(path, "a tree's lists of categories do not fit each other")


def _fields(block: bytes) -> dict[str, str]:
    lines = block.decode("utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)
