"""XGBoost's own formats: UBJSON and JSON. Never its old binary one, never a pickled estimator."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from rayplat.artifacts.formats import columns as tabular
from rayplat.artifacts.formats import ubjson
from rayplat.artifacts.formats.tree import Tree
from rayplat.artifacts.formats.trees import check_children
from rayplat.errors import InvalidInput, SchemaMismatch, TooLarge, Unavailable

_MAX_BYTES = 1 << 30
_ROOT = 2**31 - 1  # the parent of a root
_JSON = re.compile(rb'\s*\{\s*("learner"\s*:|"version"\s*:\s*\[\s*\d)')
_UBJ = re.compile(rb"\{[iUIlL]\x00{0,7}\x07(learner|version)", re.DOTALL)
_SKIP = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


class XgboostReader:
    """Files ``*.ubj`` and ``*.xgb``, and JSON that begins as XGBoost's does."""

    name = "xgboost"
    suffixes = (".ubj", ".xgb")

    def recognises(self, head: bytes) -> bool:
        return bool(_JSON.match(head) or _UBJ.match(head))

    def audit(self, path: str, file: BinaryIO, tree: Tree) -> str:
        if tree.sizes[path] > _MAX_BYTES:
            raise TooLarge(path, tree.sizes[path], _MAX_BYTES)
        content = file.read()
        if content[:4] in (b"binf", b"bs64") or not (_JSON.match(content) or _UBJ.match(content)):
            raise InvalidInput(path, "it is no UBJSON or JSON model of XGBoost; save it as .ubj")
        model = _json(content, path) if _JSON.match(content) else ubjson.parse(content, path)
        _check(model, path)
        return ""

    def load(self, folder: Path, path: str, names: tuple[str, ...]) -> XgboostModel:
        try:
            import xgboost
        except ImportError as e:
            raise Unavailable("xgboost", "these models need it: pip install 'rayplat[formats]'") from e
        booster = xgboost.Booster({"nthread": 1})
        try:
            booster.load_model(bytearray((folder / path).read_bytes()))
        except Exception as e:
            raise InvalidInput(path, f"XGBoost cannot read it: {str(e).splitlines()[0][:300]}") from e
        return XgboostModel(booster, names)


class XgboostModel:
    """``prediction``: [n], or [n, classes]; what the objective gives (a probability for ``binary:logistic``)."""

    def __init__(self, booster: Any, names: tuple[str, ...]) -> None:
        self.booster = booster
        self.names = tuple(booster.feature_names or names)
        self.width = int(booster.num_features())
        self._rounds = (0, 0)
        learner = json.loads(booster.save_config())["learner"]
        self.objective = str(learner["objective"]["name"])
        self._linear = learner["gradient_booster"]["name"] == "gblinear"

    def best_round(self) -> None:
        """From now on use only the trees up to the best round of training, as XGBoost's estimators do."""
        best = self.booster.attr("best_iteration")
        self._rounds = (0, 0 if best is None else int(best) + 1)

    def predict(self, columns: Mapping[str, Any]) -> Mapping[str, npt.NDArray[Any]]:
        import xgboost

        x = tabular.matrix(columns, self.names, self.width)
        try:
            if self._linear:
                data = xgboost.DMatrix(x, nthread=1)
                answers = self.booster.predict(data, validate_features=False, iteration_range=self._rounds)
            else:  # without a copy into a DMatrix: half the time of a row
                answers = self.booster.inplace_predict(x, validate_features=False, iteration_range=self._rounds)
        except (xgboost.core.XGBoostError, ValueError) as e:
            raise SchemaMismatch("inputs", f"the model cannot compute with them: {str(e)[:300]}") from e
        return tabular.outputs("prediction", answers, len(x))

    def contributions(self, columns: Mapping[str, Any]) -> npt.NDArray[Any]:
        """Each feature's part in what the trees sum, and the base last: [n, width + 1], or [n, classes, width + 1]."""
        import xgboost

        data = xgboost.DMatrix(tabular.matrix(columns, self.names, self.width), nthread=1)
        found = self.booster.predict(data, pred_contribs=True, validate_features=False, iteration_range=self._rounds)
        return np.asarray(found)


def _json(content: bytes, path: str) -> Any:
    try:
        text = content.decode("utf-8")
        depth = 0
        for token in _SKIP.finditer(text):
            depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token.group(), 0)
            if depth > ubjson.MAX_DEPTH:
                raise InvalidInput(path, f"it is nested deeper than {ubjson.MAX_DEPTH}")
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        raise InvalidInput(path, f"it is cut off or no JSON: {str(e)[:100]}") from e


def _check(model: Any, path: str) -> None:
    try:
        learner = model["learner"]
        width = int(learner["learner_model_param"]["num_feature"])
        for tree in _trees(learner["gradient_booster"], path):
            nodes = int(tree["tree_param"]["num_nodes"])
            lengths = {len(tree[name]) for name in ("left_children", "right_children", "split_indices")}
            if lengths != {nodes} or len(tree["split_conditions"]) != nodes:
                raise InvalidInput(path, "a tree's lists of nodes have different lengths")
            parents = np.asarray(tree["parents"], dtype=np.int64)
            if len(parents) != nodes or ((parents < 0) | (parents >= nodes) & (parents != _ROOT)).any():
                raise InvalidInput(path, "a tree's node has a parent outside of the tree")
            check_children(path, tree["left_children"], tree["right_children"], tree["split_indices"], width)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as e:
        raise InvalidInput(path, f"it is no model as XGBoost writes it: {e!r}"[:300]) from e


def _trees(booster: Any, path: str) -> Iterator[Any]:
    match booster["name"]:
        case "gbtree":
            model = booster["model"]
        case "dart":
            model = booster["gbtree"]["model"]
        case "gblinear":
            return
        case other:
            raise InvalidInput(path, f"its booster {str(other)[:60]!r} is not known")
    if int(model["gbtree_model_param"]["num_trees"]) != len(model["trees"]) or len(model["tree_info"]) != len(
        model["trees"]
    ):
        raise InvalidInput(path, "it holds another number of trees than it says")
    yield from model["trees"]
