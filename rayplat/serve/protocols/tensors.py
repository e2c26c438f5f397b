"""Tensors of a request put together: names, datatypes, shapes and values against a model's signature.

The same for REST, gRPC and whatever else carries tensors. Pure; every refusal names the field, and the row where there
is one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from rayplat.errors import InvalidInput, TooLarge
from rayplat.serve.protocols import elements
from rayplat.serve.protocols.elements import Place, Rules, check_datatype
from rayplat.serve.protocols.request_columns import column_values
from rayplat.serve.protocols.strict_json import short
from rayplat.serve.request import Values
from rayplat.types import Signature, TensorSpec
from rayplat.types.signature import DATATYPES

_MAX_DIMENSION = 2**63 - 1
_PLANS: dict[int, tuple[Signature, Plan]] = {}
_MOST_PLANS = 1024


@dataclass(frozen=True, slots=True)
class Tensor:
    """One given tensor. ``data`` is a JSON list, flat or nested as the shape says, or with ``raw`` the bytes of the
    binary extension (also gRPC's ``raw_input_contents``). ``content`` is its ``content_type`` parameter."""

    name: str
    datatype: str
    shape: Sequence[Any]
    data: Any
    raw: bool = False
    content: str = ""


@dataclass(slots=True)
class Assembled:
    """The parts of an `InferRequest` that tensors make."""

    rows: int = 0
    inputs: dict[str, Values] = field(default_factory=dict)
    entity: list[Any] | None = None
    columns: dict[str, list[Any]] = field(default_factory=dict)


class Plan:
    """What is worked out once of a signature, so that a request need not."""

    def __init__(self, signature: Signature) -> None:
        looked_up = bool(signature.keys)
        finite = signature.tabular or looked_up
        self.rules = {spec.name: Rules(spec, looked_up, finite) for spec in signature.inputs}
        self.names = [spec.name for spec in signature.inputs]
        self.required = [spec.name for spec in signature.inputs if spec.required]
        self.keys_in_order = [name for name in signature.keys if name not in self.rules]
        self.keys = frozenset(self.keys_in_order)
        self.columns = {spec.name: spec for spec in signature.columns}


def plan_of(signature: Signature) -> Plan:
    """The plan of ``signature``, made at its first request."""
    known = _PLANS.get(id(signature))
    if known is not None and known[0] is signature:
        return known[1]
    if len(_PLANS) >= _MOST_PLANS:
        _PLANS.clear()
    plan = Plan(signature)
    _PLANS[id(signature)] = (signature, plan)
    return plan


def assemble(signature: Signature, tensors: Sequence[Tensor], max_rows: int) -> Assembled:
    """All of ``tensors`` as the model's inputs, its keys and columns. Raises `InvalidInput` for everything that does
    not fit the signature and `TooLarge` beyond ``max_rows``."""
    if not tensors:
        raise InvalidInput("inputs", "must be a non-empty array of tensors")
    plan, found = plan_of(signature), Assembled()
    keys: dict[str, list[str]] = {}
    seen: set[str] = set()
    first = ""
    for tensor in tensors:
        if tensor.name in seen:
            raise InvalidInput(f"inputs.{short(tensor.name)}", "given twice")
        seen.add(tensor.name)
        rows = _rows(tensor, max_rows)
        if first and rows != found.rows:
            reason = f"has {rows} rows where {short(first)!r} has {found.rows}; all inputs need the same"
            raise InvalidInput(f"inputs.{short(tensor.name)}.shape", reason)
        first, found.rows = first or tensor.name, rows
        if tensor.name in plan.rules:
            found.inputs[tensor.name] = values_of(plan.rules[tensor.name], tensor)
        elif tensor.name in plan.keys:
            keys[tensor.name] = _key_values(tensor)
        elif tensor.name in plan.columns:
            found.columns[tensor.name] = _column(plan.columns[tensor.name], tensor)
        elif signature.matrix is not None and (tensor.name == signature.matrix.name or len(tensors) == 1):
            found.inputs |= _matrix(signature, signature.matrix, tensor)
        elif signature.open:
            found.inputs[tensor.name] = values_of(_as_sent(tensor), tensor)
        else:
            reason = f"unknown input; the model takes {_takes(signature)}"
            raise InvalidInput(f"inputs.{short(tensor.name)}", reason)
    if found.rows > max_rows:
        raise TooLarge("the request", found.rows, max_rows, "rows")
    return completed(signature, found, keys)


def completed(signature: Signature, found: Assembled, keys: dict[str, list[str]]) -> Assembled:
    """``found`` with the ``keys`` joined, its inputs in the signature's order, and nothing missing."""
    plan = plan_of(signature)
    lacking = [name for name in signature.keys if name in plan.keys and name not in keys]
    if plan.keys and not lacking:
        found.entity = _entity(signature, keys, found)
    else:
        wanted = plan.names if plan.keys else plan.required
        missing = [name for name in wanted if name not in found.inputs]
        if missing and plan.keys:
            reason = f"every feature ({len(missing)} not given, first {missing[0]!r})"
            raise InvalidInput(f"inputs.{lacking[0]}", f"missing: send the keys as BYTES [n], or {reason}")
        if missing:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise InvalidInput(f"inputs.{missing[0]}", f"missing{more}: the model takes {_takes(signature)}")
    if not signature.open and list(found.inputs) != plan.names:
        found.inputs = {name: found.inputs[name] for name in plan.names if name in found.inputs}
    return found


def values_of(rules: Rules, tensor: Tensor) -> Values:
    """The tensor's values as the model takes them, its shape and every value checked."""
    check_datatype(rules, tensor.name, tensor.datatype)
    shape = _fitting(rules.spec, tensor)
    count = math.prod(shape)
    place = Place(tensor.name, max(1, count // shape[0]))
    if tensor.raw:
        found = elements.from_raw(rules, place, tensor.datatype, tensor.data, count)
    else:
        found = elements.from_json(rules, place, tensor.datatype, _flat(tensor, shape, count), tensor.content)
    flat = len(rules.spec.shape) <= 1 and count == shape[0]  # [n, 1] for a column is a column
    if flat:
        return found  # type: ignore[no-any-return]
    if isinstance(found, list):
        cells = np.empty(count, dtype=object)
        cells[:] = found
        found = cells
    return found.reshape(shape)  # type: ignore[no-any-return]


# --- shapes ---------------------------------------------------------------------------------------


def _rows(tensor: Tensor, max_rows: int) -> int:
    where = f"inputs.{short(tensor.name)}"
    shape = tensor.shape
    if tensor.datatype not in DATATYPES:
        raise InvalidInput(f"{where}.datatype", f"{short(tensor.datatype)!r} is no tensor datatype of the protocol")
    if not isinstance(shape, list | tuple) or not all(type(d) is int and 0 <= d <= _MAX_DIMENSION for d in shape):
        raise InvalidInput(f"{where}.shape", "must be an array of non-negative integers of 64 bits")
    if not shape or len(shape) > 32:
        raise InvalidInput(f"{where}.shape", f"must have 1 to 32 dimensions, the first is the rows; found {len(shape)}")
    if shape[0] == 0:
        raise InvalidInput(f"{where}.shape", "must hold at least one row")
    if shape[0] > max_rows and (tensor.raw or len(tensor.data) >= shape[0]):  # else the shape is wrong: said below
        raise TooLarge("the request", shape[0], max_rows, "rows")
    return int(shape[0])


def _fitting(spec: TensorSpec, tensor: Tensor) -> tuple[int, ...]:
    """The tensor's shape where the model takes it; a column of single values may be [n] or [n, 1]."""
    given, declared = tuple(tensor.shape), spec.shape or (-1,)
    if len(given) == 2 and given[1] == 1 and len(declared) == 1:
        declared = (declared[0], 1)
    elif len(given) == 1 and len(declared) == 2 and declared[1] == 1:
        given = (given[0], 1)
    if len(given) == len(declared) and all(d in (-1, g) for d, g in zip(declared, given, strict=True)):
        return given
    shown = ", ".join("n" if d == -1 and i == 0 else str(d) for i, d in enumerate(spec.shape or (-1,)))
    either = f"[{shown}] or [{shown}, 1]" if len(spec.shape) <= 1 else f"[{shown}]"
    reason = f"must be {either}{' (-1 is any size)' if -1 in spec.shape[1:] else ''}, found {short(list(tensor.shape))}"
    raise InvalidInput(f"inputs.{short(tensor.name)}.shape", reason)


def _flat(tensor: Tensor, shape: tuple[int, ...], count: int) -> Sequence[Any]:
    """The data in row-major order: it may be flat already, or nested as the shape says."""
    data, where = tensor.data, f"inputs.{short(tensor.name)}"
    if not isinstance(data, list | np.ndarray):
        raise InvalidInput(f"{where}.data", "must be an array")
    nested = len(data) > 0 and isinstance(data[0], list) and len(tensor.shape) > 1
    if not nested:
        if len(data) != count:
            raise InvalidInput(f"{where}.data", f"has {len(data)} values, the shape says {count}")
        return data  # type: ignore[return-value]
    level: Sequence[Any] = [data]
    for size in tensor.shape:
        if set(map(type, level)) != {list} or set(map(len, level)) != {size}:
            _uneven(where, level, size, shape[0])
        level = list(chain.from_iterable(level))
    return level


def _uneven(where: str, level: Sequence[Any], size: int, rows: int) -> None:
    wrong = next(i for i, item in enumerate(level) if not isinstance(item, list) or len(item) != size)
    item = level[wrong]
    found = f"{len(item)} values" if isinstance(item, list) else "a single value"
    if level[0] is item and len(level) == 1 and size == rows:
        raise InvalidInput(f"{where}.data", f"has {found}, the shape says {size} rows")
    row = wrong * rows // len(level)
    raise InvalidInput(f"{where}[{row}]", f"must be arrays as the shape says: {size} values here, found {found}")


# --- kinds of inputs --------------------------------------------------------------------------------


def _key_values(tensor: Tensor) -> list[str]:
    rules = Rules(TensorSpec(tensor.name, "BYTES"), short_text=True)
    if tensor.datatype != "BYTES":
        raise InvalidInput(f"inputs.{short(tensor.name)}.datatype", f"keys are BYTES, found {tensor.datatype}")
    return list(values_of(rules, tensor))


def _entity(signature: Signature, keys: dict[str, list[str]], found: Assembled) -> list[Any]:
    """A key per row: the text itself, or a tuple where several join keys make it."""
    if len(signature.keys) == 1:
        return keys[signature.keys[0]]
    parts = [keys.get(name) or list(found.inputs[name]) for name in signature.keys]
    return list(zip(*parts, strict=True))


def _column(spec: TensorSpec, tensor: Tensor) -> list[Any]:
    """A column for features computed on request, in plain values."""
    shape = _fitting(TensorSpec(spec.name, tensor.datatype), tensor)
    count = math.prod(shape)
    if not tensor.raw:
        return column_values(spec, _flat(tensor, shape, count))
    rules = Rules(TensorSpec(spec.name, tensor.datatype, nullable=True), finite=False)
    found = elements.from_raw(rules, Place(tensor.name), tensor.datatype, tensor.data, count)
    return column_values(spec, found if isinstance(found, list) else found.tolist())


def _matrix(signature: Signature, matrix: TensorSpec, tensor: Tensor) -> dict[str, Values]:
    """The columns of one array that stands for all inputs."""
    return columns_of(signature, values_of(Rules(matrix, finite=signature.tabular), tensor))


def columns_of(signature: Signature, block: Any) -> dict[str, Values]:
    """The inputs out of an array of shape [n, width], each in its own datatype."""
    if len(signature.inputs) == 1 and signature.inputs[0] == signature.matrix:
        return {signature.inputs[0].name: block}
    found: dict[str, Values] = {}
    for rules, column in zip(plan_of(signature).rules.values(), np.ascontiguousarray(block.T), strict=True):
        if rules.spec.datatype == "BYTES":
            found[rules.spec.name] = column.tolist()
        else:
            found[rules.spec.name] = column if column.dtype == rules.dtype else column.astype(rules.dtype)
    return found


def _as_sent(tensor: Tensor) -> Rules:
    """An input of a model that declares none."""
    return Rules(TensorSpec(tensor.name, tensor.datatype, (-1,) * len(tensor.shape)), finite=False)


def _takes(signature: Signature) -> str:
    names = [*signature.keys, *(spec.name for spec in signature.columns), *(spec.name for spec in signature.inputs)]
    names = list(dict.fromkeys(names))
    return ", ".join(map(short, names[:12])) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
