"""What a model takes and gives, tensor by tensor, in the terms of the Open Inference Protocol."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

FLOATS = ("FP16", "FP32", "FP64")
INTEGERS = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
DATATYPES = ("BOOL", *INTEGERS, *FLOATS, "BYTES")


@dataclass(frozen=True)
class TensorSpec:
    """One input or output. ``shape`` has -1 for any size; the first dimension is the rows. ``datatype`` is one of
    `DATATYPES`.

    ``required`` false: a request may leave it out (its value is looked up, or the model does without). ``nullable``:
    a value may be missing (null, NaN). ``wide``: numbers stay float64 whatever the datatype says, because the model's
    own encoding and the log want them as they were given. ``logical`` is the model's own name of the type where the
    datatype does not tell (``datetime``, ``binary``).
    """

    name: str
    datatype: str
    shape: tuple[int, ...] = (-1,)
    required: bool = True
    nullable: bool = False
    wide: bool = False
    logical: str = ""


@dataclass(frozen=True)
class ParamSpec:
    """One parameter of a prediction, beside its inputs. ``is_list`` for one that is a list of ``datatype``."""

    name: str
    datatype: str
    default: Any = None
    is_list: bool = False


@dataclass(frozen=True)
class Signature:
    """Everything a request may carry and an answer holds.

    ``keys`` are the join keys that features are looked up by (BYTES [n]); inputs that the lookup gives are not
    ``required``. ``columns`` come with the keys, for features computed on request. ``tabular``: inputs are columns of a
    table, one value to a row; else arrays. ``open``: the model declares no inputs and takes what it is given.
    ``matrix``: one array of shape [n, width] that a request may carry in place of all ``inputs``, which are its columns
    in order; under this name, or under any where it is the request's only input. ``layout``: what the model's answer is
    to MLflow's clients: ``array`` (one list), ``records`` (an object per row), ``arrays`` (a list per output); empty:
    an array for one output, records for several of a tabular model, else arrays.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    params: tuple[ParamSpec, ...] = ()
    keys: tuple[str, ...] = ()
    columns: tuple[TensorSpec, ...] = ()
    tabular: bool = False
    open: bool = False
    matrix: TensorSpec | None = None
    layout: str = ""

    @cached_property
    def by_name(self) -> dict[str, TensorSpec]:
        return {spec.name: spec for spec in self.inputs}

    @cached_property
    def output_names(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.outputs)
