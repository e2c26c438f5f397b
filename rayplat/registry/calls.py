"""How an operation of the record crosses to the process that owns the record: by its name, with its arguments.

An operation is a module-level function under `rayplat.registry.record` whose first parameter is a connection (reads)
or a `Tx` (writes). Sending names keeps the actor's surface closed: nothing else can be called through it.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

from rayplat.errors import InvalidInput

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rayplat.registry.record.database import Tx

P = ParamSpec("P")
R = TypeVar("R")
_PACKAGE = "rayplat.registry.record."


class Registry(Protocol):
    """What callers of the registry need: operations of the record, wherever it is."""

    def read(self, query: Callable[Concatenate[Connection, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What ``query(connection, *args, **kwargs)`` finds."""
        ...

    def write(self, operation: Callable[Concatenate[Tx, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of ``operation(tx, *args, **kwargs)``: all of it is committed, or nothing, and once."""
        ...


def name_of(operation: Callable[..., Any]) -> str:
    """``module:function`` of an operation of the record. Raises `InvalidInput` for anything else."""
    name = f"{operation.__module__}:{operation.__qualname__}"
    resolve(name)
    return name


def resolve(name: str) -> Callable[..., Any]:
    """The operation of that name. Raises `InvalidInput` where it is no public function of the record."""
    module, _, function = name.partition(":")
    found = getattr(importlib.import_module(module), function, None) if module.startswith(_PACKAGE) else None
    if not inspect.isfunction(found) or found.__module__ != module or function.startswith("_"):
        raise InvalidInput("operation", f"{name!r} is no operation of the registry's record")
    return found
