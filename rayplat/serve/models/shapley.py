"""Shapley values of any model of table columns, found by asking it about mixtures of the row and a background.

Walks go from the background to the row, one input after the other, in sampled orders forth and back (Castro, Gómez,
Tejada: Polynomial calculation of the Shapley value based on sampling, 2009; Mitchell, Cooper, Frank, Holmes: Sampling
Permutations for Shapley Value Estimation, 2022). Where every subset of inputs fits into the budget, the value is exact
(Shapley: A value for n-person games, 1953). Either way the values and the base add up to the answer.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from rayplat.artifacts.formats import columns as tabular
from rayplat.artifacts.formats.skops import SkopsModel
from rayplat.errors import InvalidInput
from rayplat.serve.ports import Explanation, LoadedVersion

Floats = npt.NDArray[np.float64]
Cells = dict[str, npt.NDArray[Any]]
_MOST_EXACT = 12  # inputs: beyond, subsets are too many for any budget
_CHUNK = 1024  # rows in one call of the model
_COLUMN = re.compile(r"(.+)\[(\d+)\]")


class Permutation:
    """Shapley values of a version with a stored example. ``estimator``: it is one of scikit-learn's; where that gives
    labels, the probability of the label is what is explained."""

    def __init__(self, loaded: LoadedVersion, estimator: SkopsModel | None) -> None:
        assert loaded.example is not None
        self._predictor, self._estimator = loaded.predictor, estimator
        names = [spec.name for spec in loaded.signature.inputs]
        self._matrix = names[0] if len(loaded.signature.inputs[0].shape) == 2 else None
        self._names = names
        self._example = self._cells_of(loaded.example)

    def explain(self, columns: Mapping[str, Any], output: str, max_evaluations: int) -> Explanation:
        """Of one number to a row: of several (class probabilities) the largest one's, or ``output[i]``. Raises
        `InvalidInput` where the budget is below one walk to each row, or the output is no number."""
        rows = self._cells_of(columns)
        names, n = list(rows), len(next(iter(rows.values())))
        budget = max_evaluations // n - 1
        exact = len(names) <= _MOST_EXACT and (1 << len(names)) <= budget
        if not exact and budget < len(names) + 1:
            reason = f"{max_evaluations} evaluations are not enough for {n} rows of {len(names)} inputs"
            raise InvalidInput("max_evaluations", f"{reason}; {n * (len(names) + 2)} are the least")
        ask = _Asked(self._answers, output)
        explained, of = ask.choose(rows)
        many = min(len(values) for values in self._example.values())
        used = max(1, min(many, budget // (1 << len(names) if exact else 2 * len(names) + 1)))
        chosen = np.linspace(0, many - 1, used).astype(np.int64)
        values, base = np.empty((n, len(names))), np.empty(n)
        for i in range(n):
            row = {name: cells[i] for name, cells in rows.items()}
            # an input that the example lacks stays as it is, and its part is nothing
            around = {k: self._example[k][chosen] if k in self._example else rows[k][[i] * used] for k in names}
            walk = _Walk(ask, row, around, int(of[i]))
            values[i], base[i] = walk.exact() if exact else walk.sampled(budget)
        method = "exact" if exact else "permutation"
        parts = {name: values[:, i] for i, name in enumerate(names)}
        return Explanation(explained, method, parts, base, ask.evaluations)

    def _cells_of(self, columns: Mapping[str, Any]) -> Cells:
        """Columns of cells. A matrix is taken apart: into the named columns, or ``name[0]``, ``name[1]``, …"""
        whole = tabular.only_matrix(columns)
        if whole is None:
            return {name: _cells(values) for name, values in columns.items()}
        matrix = whole[1]
        names = self._names if self._matrix is None else [f"{self._matrix}[{i}]" for i in range(matrix.shape[1])]
        if len(names) != matrix.shape[1]:
            raise InvalidInput(whole[0], f"has {matrix.shape[1]} columns, the model takes {len(names)}")
        return {name: matrix[:, i] for i, name in enumerate(names)}

    def _answers(self, cells: Mapping[str, Any], output: str) -> tuple[str, Any]:
        """What the model gives under ``output`` (its first one where that is empty)."""
        if self._matrix is not None:
            given: dict[str, Any] = {self._matrix: np.stack(list(cells.values()), axis=1)}
        else:
            given = {k: list(v) if v.dtype == object else v for k, v in cells.items()}
        if self._estimator is not None and output in ("", "prediction"):
            probabilities = self._estimator.probabilities(given)
            if probabilities is not None:
                return "probability", probabilities
        found = self._predictor.predict(given)
        name = output or next(iter(found))
        if name not in found:
            raise InvalidInput("output", f"{output[:80]!r} is none of the model's; these are: {', '.join(found)}")
        return name, found[name]


class _Asked:
    """The model as a function of rows to one number each, counting what it computes."""

    def __init__(self, answers: Callable[[Mapping[str, Any], str], Any], output: str) -> None:
        self._answers = answers
        self._output, self._chosen = named(output)
        self.evaluations = 0

    def choose(self, rows: Mapping[str, Any]) -> tuple[str, npt.NDArray[np.int64]]:
        """The name of what is explained, and of [n, k] answers which column of each row."""
        name, found = self._asked(rows)
        if found.ndim == 1:
            return name, np.full(len(found), -1)
        if self._chosen is not None and self._chosen >= found.shape[1]:
            raise InvalidInput("output", f"{name} has {found.shape[1]} columns, [{self._chosen}] is none of them")
        if self._chosen is None and found.shape[1] == 2:
            self._chosen = 1  # of two classes the second one says it all
        if self._chosen is not None:
            return f"{name}[{self._chosen}]", np.full(len(found), self._chosen)
        return name, found.argmax(axis=1)

    def of(self, rows: Mapping[str, Any], column: int) -> Floats:
        n = len(next(iter(rows.values())))
        parts = []
        for start in range(0, n, _CHUNK):
            found = self._asked({name: values[start : start + _CHUNK] for name, values in rows.items()})[1]
            parts.append(found if column < 0 else found[:, column])
        return np.concatenate(parts).astype(np.float64)

    def _asked(self, rows: Mapping[str, Any]) -> tuple[str, Any]:
        name, found = self._answers(rows, self._output)
        found = np.asarray(found)
        self.evaluations += len(found)
        if found.dtype.kind not in "fiub" or found.ndim > 2:
            raise InvalidInput("output", f"{name!r} is no number to a row, so it cannot be explained")
        return name, found


class _Walk:
    """One row among rows of the background."""

    def __init__(self, ask: _Asked, row: Mapping[str, Any], background: Cells, column: int) -> None:
        self._ask, self._row, self._column, self._background = ask, row, column, background
        self._names = list(row)
        self._used = len(next(iter(background.values())))

    def exact(self) -> tuple[Floats, float]:
        k = len(self._names)
        masks = np.array(list(itertools.product((False, True), repeat=k)), dtype=bool).reshape(-1, k)
        means = self._means(masks)
        index = {tuple(mask): i for i, mask in enumerate(masks.tolist())}
        values = np.zeros(k)
        for mask, mean in zip(masks.tolist(), means, strict=True):
            size = sum(mask)
            for i in range(k):
                if not mask[i]:
                    there = tuple(True if j == i else inside for j, inside in enumerate(mask))
                    weight = math.factorial(size) * math.factorial(k - size - 1) / math.factorial(k)
                    values[i] += weight * (means[index[there]] - mean)
        return values, float(means[index[(False,) * k]])

    def sampled(self, budget: int) -> tuple[Floats, float]:
        """As many orders, each forth and back, as the budget allows; the same ones each time."""
        k = len(self._names)
        random = np.random.default_rng(0)
        pairs = budget // self._used >= 2 * k + 1
        orders = max(1, (budget // self._used) // (2 * k + 1)) if pairs else 1
        values, base = np.zeros(k), 0.0
        for _ in range(orders):
            order = random.permutation(k)
            steps = [*order, *order] if pairs else list(order)
            masks = np.zeros((len(steps) + 1, k), dtype=bool)
            for at, i in enumerate(steps):
                masks[at + 1] = masks[at]
                masks[at + 1, i] = not masks[at, i]  # forth it comes in, back it goes out again, in the same order
            means = self._means(masks)
            changes = np.diff(means)
            for at, i in enumerate(steps):
                values[i] += changes[at] * (1 if at < k else -1) * (0.5 if pairs else 1.0)
            base += float(means[0])
        return values / orders, base / orders

    def _means(self, masks: npt.NDArray[np.bool_]) -> Floats:
        """The mean answer over the background, with the row's own values where a mask is set: [masks]."""
        rows = {}
        for i, name in enumerate(self._names):
            cells = np.tile(self._background[name], len(masks))
            cells[np.repeat(masks[:, i], self._used)] = self._row[name]
            rows[name] = cells
        means: Floats = self._ask.of(rows, self._column).reshape(len(masks), self._used).mean(axis=1)
        return means


def _cells(values: Any) -> npt.NDArray[Any]:
    """One value to a cell, text too, so that cells of two rows can be mixed."""
    if isinstance(values, np.ndarray):
        return values
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found


def named(output: str) -> tuple[str, int | None]:
    """``probability[2]`` is the column 2 of ``probability``."""
    match = _COLUMN.fullmatch(output)
    return (output, None) if match is None else (match[1], int(match[2]))
