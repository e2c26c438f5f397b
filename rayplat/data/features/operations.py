"""What each operation of an expression tree does, by Arrow's kernels; see `expressions`.

A tree is ``{"col": name}``, ``{"lit": value}`` (``dtype`` beside it for times and durations in microseconds) or
``{"op": name, "args": [trees], "options": {…}}``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rayplat.errors import InvalidInput

Tree = Mapping[str, Any]

TIME = pa.timestamp("us", tz="UTC")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def arrow_type(dtype: str) -> pa.DataType:
    """The Arrow type of a name as Arrow itself prints it. Raises `InvalidInput`."""
    if dtype.startswith("timestamp"):
        return TIME
    try:
        return pa.type_for_alias(dtype)
    except ValueError as e:
        raise InvalidInput("dtype", f"{dtype!r} names no Arrow type") from e


def compute(tree: Tree, column: Callable[[str], Any], constant: Callable[[Any], Any]) -> Any:
    """The value of ``tree``; ``column`` gives arrays (or Arrow expressions) by name and ``constant`` makes scalars
    of their kind."""
    if "col" in tree:
        return column(tree["col"])
    if "lit" in tree:
        value = tree["lit"]
        dtype = tree.get("dtype")
        if dtype is not None:
            value = pa.scalar(value, pa.duration("us") if dtype.startswith("duration") else TIME)
        return constant(value) if dtype is None or constant is pc.scalar else value
    args = [compute(arg, column, constant) for arg in tree["args"]]
    return _OPERATIONS[tree["op"]](*args, **tree.get("options", {}))


def check(tree: Any) -> None:
    """Raises `InvalidInput` for what is no tree of known operations."""
    known = isinstance(tree, Mapping) and ("col" in tree or "lit" in tree or tree.get("op") in _OPERATIONS)
    if not known:
        raise InvalidInput("expression", f"{tree!r} is neither column, constant nor a known operation")
    for arg in tree.get("args", ()):
        check(arg)


def columns(tree: Tree) -> list[str]:
    """Every column that is read, in order, as often as it is read."""
    if "col" in tree:
        return [tree["col"]]
    return [name for arg in tree.get("args", ()) for name in columns(arg)]


_SIGNS = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/", "equal": "==", "not_equal": "!="}
_SIGNS |= {"less": "<", "less_equal": "<=", "greater": ">", "greater_equal": ">=", "and": "&", "or": "|"}


def shown(tree: Tree) -> str:
    """The tree as a person would write it."""
    if "col" in tree:
        return str(tree["col"])
    if "lit" in tree:
        value = tree["lit"]
        dtype = tree.get("dtype", "")
        moment = EPOCH + value * MICROSECOND if dtype.startswith("timestamp") else value
        return repr(moment.isoformat()) if isinstance(moment, datetime) else repr(moment)
    args = [shown(arg) for arg in tree["args"]]
    if tree["op"] in _SIGNS:
        return f"({args[0]} {_SIGNS[tree['op']]} {args[1]})"
    return f"{tree['op']}({', '.join([*args, *map(repr, tree.get('options', {}).values())])})"


# --- inside ---------------------------------------------------------------------------------------


def _cast(value: Any, dtype: pa.DataType) -> Any:
    return value.cast(dtype) if isinstance(value, pc.Expression | pa.Scalar) else pc.cast(value, dtype)


def _divided(left: Any, right: Any) -> Any:
    return pc.divide(_cast(left, pa.float64()), _cast(right, pa.float64()))


def _power(value: Any, exponent: Any) -> Any:
    return pc.power(_cast(value, pa.float64()), _cast(exponent, pa.float64()))


def _seconds(value: Any) -> Any:
    return _divided(_cast(_cast(value, pa.duration("us")), pa.int64()), pa.scalar(1e6))


def _part(function: Callable[[Any], Any], value: Any, zone: str) -> Any:
    return function(_cast(_cast(value, TIME), pa.timestamp("us", tz=zone)))  # naive times are UTC, not local


def _joined(*values: Any, separator: str) -> Any:
    return pc.binary_join_element_wise(*values, separator, null_handling="emit_null")


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": pc.add_checked,
    "subtract": pc.subtract_checked,
    "multiply": pc.multiply_checked,
    "divide": _divided,
    "negate": pc.negate_checked,
    "equal": pc.equal,
    "not_equal": pc.not_equal,
    "less": pc.less,
    "less_equal": pc.less_equal,
    "greater": pc.greater,
    "greater_equal": pc.greater_equal,
    "and": pc.and_kleene,
    "or": pc.or_kleene,
    "not": pc.invert,
    "is_null": pc.is_null,
    "is_nan": pc.is_nan,
    "if_else": pc.if_else,
    "coalesce": pc.coalesce,
    "least": partial(pc.min_element_wise, skip_nulls=False),
    "greatest": partial(pc.max_element_wise, skip_nulls=False),
    "concat": _joined,
    "cast": lambda value, dtype: _cast(value, arrow_type(dtype)),
    "round": lambda value, digits: pc.round(value, ndigits=digits),
    "seconds": _seconds,
    "abs": pc.abs_checked,
    "log": pc.ln,
    "log1p": pc.log1p,
    "exp": pc.exp,
    "sqrt": pc.sqrt,
    "power": _power,
    "floor": pc.floor,
    "ceil": pc.ceil,
    "hour": partial(_part, pc.hour),
    "minute": partial(_part, pc.minute),
    "weekday": partial(_part, pc.day_of_week),
    "day": partial(_part, pc.day),
    "month": partial(_part, pc.month),
    "year": partial(_part, pc.year),
    "lower": pc.utf8_lower,
    "upper": pc.utf8_upper,
    "length": pc.utf8_length,
    "contains": lambda value, part: pc.match_substring(value, part),
    "starts_with": lambda value, part: pc.starts_with(value, part),
}
