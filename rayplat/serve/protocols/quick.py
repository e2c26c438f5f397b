"""The common request by a shorter way: one value of each feature in plain JSON, one array of numbers, one key.

Whatever is not exactly that is None here and goes the long way (`tensors`), which says what is wrong with it if
anything is. Nothing is accepted here that would be refused there, and the values are the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rayplat.serve.protocols.elements import MAX_TEXT, RANGES, Rules
from rayplat.serve.protocols.tensors import Assembled
from rayplat.serve.request import Values
from rayplat.types import Signature, TensorSpec
from rayplat.types.signature import FLOATS

_NUMBERS = frozenset((int, float))
_FLOAT_TYPES = frozenset(FLOATS)
_PLANS: dict[int, tuple[Signature, QuickPlan]] = {}
_MOST_PLANS = 1024


class QuickPlan:
    """What is worked out once of a signature. ``numbers``: the inputs that are columns of numbers, with their range;
    ``texts``: those that are columns of text, with their least length; ``array``: the only input, where it is an array
    [n, width] of numbers; ``key``: the only join key."""

    def __init__(self, signature: Signature) -> None:
        specs = signature.inputs
        self.names = [spec.name for spec in specs]
        self.numbers = {s.name: RANGES[s.datatype] for s in specs if _single(s) and s.datatype in FLOATS}
        least = 1 if signature.keys else 0
        self.texts = {s.name: least for s in specs if _single(s) and s.datatype == "BYTES"}
        dtypes = {Rules(spec).dtype for spec in specs if spec.name in self.numbers}
        known = len(self.numbers) + len(self.texts) == len(specs) and len(dtypes) == 1
        self.dtype = dtypes.pop() if known else None
        only = specs[0] if len(specs) == 1 and not signature.keys else None
        fits = only is not None and len(only.shape) == 2 and only.shape[1] > 1 and only.datatype in FLOATS
        self.array = only if fits and only is not None and not only.wide else None
        self.key = signature.keys[0] if len(signature.keys) == 1 and signature.keys[0] not in self.names else None


def assembled(signature: Signature, given: list[Any], max_rows: int) -> Assembled | None:
    """What `tensors.assemble` makes of the decoded tensors ``given``, or None."""
    known = _PLANS.get(id(signature))
    plan = known[1] if known is not None and known[0] is signature else _planned(signature)
    try:
        if len(given) == 1:
            if plan.key is not None:
                return _key(plan.key, given[0], max_rows)
            if plan.array is not None:
                return _array(plan.array, given[0], max_rows)
        if plan.dtype is None or len(given) != len(plan.names):
            return None
        return _columns(plan, given, max_rows)
    except (LookupError, TypeError, ValueError, OverflowError):
        return None


def columns(signature: Signature, given: dict[str, list[Any]], rows: int) -> dict[str, Values] | None:
    """The inputs where ``given`` is exactly the model's columns and all of them hold plain numbers, or None."""
    known = _PLANS.get(id(signature))
    plan = known[1] if known is not None and known[0] is signature else _planned(signature)
    if plan.dtype is None or plan.texts or list(given) != plan.names:
        return None
    values, ranges = list(given.values()), plan.numbers.values()
    for column, (low, high) in zip(values, ranges, strict=True):
        if rows == 1:
            if type(column[0]) not in _NUMBERS or not low <= column[0] <= high:
                return None
        elif not set(map(type, column)) <= _NUMBERS or not _within(column, low, high):
            return None
    block = np.array(values, dtype=plan.dtype).reshape(len(values), rows)
    return dict(zip(plan.names, block, strict=True))


def _planned(signature: Signature) -> QuickPlan:
    if len(_PLANS) >= _MOST_PLANS:
        _PLANS.clear()
    plan = QuickPlan(signature)
    _PLANS[id(signature)] = (signature, plan)
    return plan


def _columns(plan: QuickPlan, given: list[Any], max_rows: int) -> Assembled | None:
    shape = given[0]["shape"]
    if type(shape) is not list or len(shape) != 1:
        return None
    rows = shape[0]
    if type(rows) is not int or not 0 < rows <= max_rows:
        return None
    ranges, names, numbers = plan.numbers, [], []
    texts: dict[str, Values] = {}
    for tensor in given:
        name, data, said = tensor["name"], tensor["data"], tensor["shape"]
        if len(tensor) != 4 or said != shape or type(said[0]) is not int or type(data) is not list or len(data) != rows:
            return None
        if name in ranges:
            low, high = ranges[name]
            if tensor["datatype"] not in _FLOAT_TYPES:
                return None
            if rows == 1:
                value = data[0]
                if type(value) not in _NUMBERS or not low <= value <= high:
                    return None
                numbers.append(value)
            elif set(map(type, data)) <= _NUMBERS and _within(data, low, high):
                numbers.append(data)
            else:
                return None
            names.append(name)
        else:
            if tensor["datatype"] != "BYTES" or not _are_texts(data, plan.texts[name]):
                return None
            texts[name] = data
    block = np.array(numbers, dtype=plan.dtype).reshape(len(numbers), rows)
    inputs: dict[str, Values] = dict(zip(names, block, strict=True))
    if texts or names != plan.names:
        inputs |= texts
        if len(inputs) != len(plan.names):
            return None
        inputs = {name: inputs[name] for name in plan.names}
    return Assembled(rows, inputs)


def _array(spec: TensorSpec, tensor: Any, max_rows: int) -> Assembled | None:
    shape, data = tensor["shape"], tensor["data"]
    if len(tensor) != 4 or tensor["name"] != spec.name or tensor["datatype"] not in _FLOAT_TYPES:
        return None
    rows, width = shape
    if type(rows) is not int or type(width) is not int or not 0 < rows <= max_rows or width != spec.shape[1]:
        return None
    if spec.shape[0] not in (-1, rows) or type(data) is not list or len(data) not in (rows, rows * width):
        return None
    if rows == 1 and type(data[0]) is list:
        data = data[0]
    low, high = RANGES[spec.datatype]
    if len(data) != rows * width or not set(map(type, data)) <= _NUMBERS or not _within(data, low, high):
        return None
    return Assembled(rows, {spec.name: np.array(data, dtype=Rules(spec).dtype).reshape(rows, width)})


def _key(key: str, tensor: Any, max_rows: int) -> Assembled | None:
    data = tensor["data"]
    if len(tensor) != 4 or tensor["name"] != key or tensor["datatype"] != "BYTES" or type(data) is not list:
        return None
    shape = tensor["shape"]
    if shape != [len(data)] or type(shape[0]) is not int or not 0 < len(data) <= max_rows or not _are_texts(data, 1):
        return None
    return Assembled(len(data), {}, data)


def _single(spec: TensorSpec) -> bool:
    return spec.shape == (-1,) and not spec.logical


def _within(values: list[Any], low: float, high: float) -> bool:
    """Whether all numbers are in the range, and none of them NaN (which the sum would be, too)."""
    try:
        total = sum(values)
    except OverflowError:  # an integer beyond a double, beside a fraction
        return False
    return bool(total == total and low <= min(values) and max(values) <= high)


def _are_texts(values: list[Any], least: int) -> bool:
    return all(type(value) is str and least <= len(value) <= MAX_TEXT and value.isprintable() for value in values)
