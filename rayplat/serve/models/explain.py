"""Why a model said what it did: for each row and input its part in the answer, adding up with a base.

Three methods, the cheapest that is exact first:

- ``tree_shap``: XGBoost's and LightGBM's own contributions (Lundberg, Erion, Lee: Consistent Individualized Feature
  Attribution for Tree Ensembles, 2018). They add up to what the trees sum: where the objective puts a link behind that
  (logistic, softmax, log), the explained output is called ``margin`` and says so.
- ``linear``: coefficient times distance from the background's mean, for scikit-learn's linear regressions.
- ``permutation``: Shapley values by walking from the background to the row, one input after the other, in sampled
  orders forth and back (Castro, Gómez, Tejada: Polynomial calculation of the Shapley value based on sampling, 2009;
  Mitchell, Cooper, Frank, Holmes: Sampling Permutations for Shapley Value Estimation, 2022). Exact where all orders'
  steps fit into the budget (``exact``: Shapley 1953, over every subset of inputs). The background is the model's stored
  example. Every walk ends at the row, so the values add up to the answer however few were made.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from rayplat.artifacts.formats import columns as tabular
from rayplat.artifacts.formats.lightgbm import LightgbmModel
from rayplat.artifacts.formats.skops import SkopsModel
from rayplat.artifacts.formats.xgboost import XgboostModel
from rayplat.errors import InvalidInput
from rayplat.serve.models.shapley import Permutation, named
from rayplat.serve.ports import Explainer, Explanation, LoadedVersion

Floats = npt.NDArray[np.float64]
MARGIN = "margin"
_IDENTITY = re.compile(
    r"reg:(squarederror|linear|absoluteerror|pseudohubererror|squaredlogerror|quantileerror)|rank:.*"
)
_PLAIN_LIGHTGBM = re.compile(r"regression.*|huber|fair|quantile|mape|lambdarank|rank_xendcg")
_LINEAR = frozenset({"LinearRegression", "Ridge", "Lasso", "ElasticNet", "Lars", "LassoLars", "BayesianRidge"})


def explainer(loaded: LoadedVersion, model: Any) -> Explainer | None:
    """How ``loaded`` is explained; ``model`` is what was loaded from its file. None where it cannot be: its inputs are
    texts or arrays, or it declares none, or there is no stored example to compare with."""
    signature = loaded.signature
    if isinstance(model, XgboostModel | LightgbmModel):
        return Trees(model)
    if signature.open or not _is_table(loaded) or not loaded.example:
        return None
    if isinstance(model, SkopsModel) and type(model.estimator).__name__ in _LINEAR and model.width is not None:
        return Linear(model, loaded.example)
    return Permutation(loaded, model if isinstance(model, SkopsModel) else None)


class Trees:
    """Contributions of the trees themselves. Needs no background and one evaluation for each row."""

    def __init__(self, model: XgboostModel | LightgbmModel) -> None:
        self._model = model
        self._output = "prediction" if _is_sum(model) else MARGIN

    def explain(self, columns: Mapping[str, Any], output: str, max_evaluations: int) -> Explanation:
        """Of ``prediction`` or ``margin``; of several classes the one that is predicted, or ``prediction[class]``."""
        base_name, chosen = named(output)
        if base_name not in ("prediction", self._output, ""):
            raise InvalidInput("output", f"{output[:80]!r} cannot be explained; {self._output!r} can")
        found = self._contributions(columns)
        _within(len(found), max_evaluations, "rows")
        name = self._output
        if found.ndim == 3:
            picked = found.sum(axis=2).argmax(axis=1) if chosen is None else np.full(len(found), chosen)
            if chosen is not None and chosen >= found.shape[1]:
                raise InvalidInput("output", f"there are {found.shape[1]} classes, [{chosen}] is none of them")
            found = found[np.arange(len(found)), picked]
            name = name if chosen is None else f"{name}[{chosen}]"
        inputs = _inputs_of(self._model.names, columns, found.shape[1] - 1)
        values = {name_: found[:, i] for i, name_ in enumerate(inputs)}
        return Explanation(name, "tree_shap", values, found[:, -1], len(found))

    def _contributions(self, columns: Mapping[str, Any]) -> Floats:
        """[n, width + 1], or [n, classes, width + 1]; the last one is the base."""
        model = self._model
        if isinstance(model, XgboostModel):
            found = model.contributions(columns)
        else:
            x = tabular.matrix(columns, model.names, model.width, None)
            found = np.asarray(model.booster.predict(x, pred_contrib=True, num_threads=1))
            if found.shape[1] != model.width + 1:
                found = found.reshape(len(x), -1, model.width + 1)
        return found.astype(np.float64)


class Linear:
    """Exact for a linear regression."""

    def __init__(self, model: SkopsModel, example: Mapping[str, Any]) -> None:
        self._model = model
        background = tabular.matrix(example, model.names, model.width, np.float64)
        self._mean = background.mean(axis=0)

    def explain(self, columns: Mapping[str, Any], output: str, max_evaluations: int) -> Explanation:
        estimator = self._model.estimator
        x = tabular.matrix(columns, self._model.names, self._model.width, np.float64)
        _within(len(x), max_evaluations, "rows")
        coefficients = np.asarray(estimator.coef_, dtype=np.float64)
        intercept = np.asarray(estimator.intercept_, dtype=np.float64)
        _, chosen = named(output)
        if coefficients.ndim == 2:
            chosen = 0 if chosen is None else chosen
            if chosen >= len(coefficients):
                raise InvalidInput("output", f"there are {len(coefficients)} columns, [{chosen}] is none of them")
            coefficients, intercept = coefficients[chosen], np.atleast_1d(intercept)[chosen]
        parts = (x - self._mean) * coefficients
        base = np.full(len(x), float(intercept) + float(self._mean @ coefficients))
        inputs = _inputs_of(self._model.names, columns, x.shape[1])
        return Explanation(output, "linear", {n: parts[:, i] for i, n in enumerate(inputs)}, base, 0)


def _is_sum(model: XgboostModel | LightgbmModel) -> bool:
    """Whether the trees' sum is the prediction, with no link behind it."""
    if isinstance(model, XgboostModel):
        return bool(_IDENTITY.fullmatch(model.objective))
    found = re.search(r"^objective=(\S+)(.*)$", model.booster.model_to_string(num_iteration=1), re.MULTILINE)
    return found is not None and bool(_PLAIN_LIGHTGBM.fullmatch(found[1])) and "sqrt" not in found[2]


def _is_table(loaded: LoadedVersion) -> bool:
    signature = loaded.signature
    columns = all(spec.shape == (-1,) for spec in signature.inputs)
    matrix = len(signature.inputs) == 1 and len(signature.inputs[0].shape) == 2
    numbers = any(spec.datatype != "BYTES" for spec in signature.inputs)
    return (columns or matrix) and numbers and not any(s.logical in ("binary", "json") for s in signature.inputs)


def _inputs_of(names: tuple[str, ...], columns: Mapping[str, Any], width: int) -> list[str]:
    if len(names) == width:
        return list(names)
    name = next(iter(columns))
    return [f"{name}[{i}]" for i in range(width)]


def _within(needed: int, limit: int, what: str) -> None:
    if needed > limit:
        raise InvalidInput("max_evaluations", f"{needed} {what} were given, at most {limit} are computed")
