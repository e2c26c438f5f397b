"""Stand-ins for Ray Data's readers of services that are not here. Each takes exactly the arguments that the real one
takes and keeps what it was asked; clients are modules of the real names."""

from __future__ import annotations

import importlib.machinery
import inspect
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pytest
import ray.data


@dataclass(frozen=True)
class Rows:
    """As much of a Dataset as sources use."""

    table: pa.Table

    def take_all(self) -> list[dict[str, Any]]:
        return self.table.to_pylist()

    def map_batches(self, change: Callable[[pa.Table], pa.Table], *, batch_format: str, batch_size: int | None) -> Rows:
        assert batch_format == "pyarrow"
        step = batch_size or max(1, self.table.num_rows)
        parts = [change(self.table.slice(at, step)) for at in range(0, self.table.num_rows, step)]
        return Rows(pa.concat_tables(parts) if parts else change(self.table))


def replace_reader(
    monkeypatch: pytest.MonkeyPatch, name: str, answer: Callable[[dict[str, Any]], pa.Table]
) -> list[dict[str, Any]]:
    """``ray.data.<name>`` answers with ``answer`` of its arguments by name; the list of those it was given."""
    signature, asked = inspect.signature(getattr(ray.data, name)), []

    def reader(*args: Any, **kwargs: Any) -> Rows:
        asked.append(signature.bind(*args, **kwargs).arguments)
        return Rows(answer(asked[-1]))

    monkeypatch.setattr(ray.data, name, reader)
    return asked


def install(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    """A module ``name`` (and its parents) with ``content``."""
    parts = name.split(".")
    for i in range(1, len(parts) + 1):
        full = ".".join(parts[:i])
        if i < len(parts) and full in sys.modules:
            continue
        module = types.ModuleType(full)
        module.__spec__ = importlib.machinery.ModuleSpec(full, None, is_package=True)
        module.__path__ = []
        monkeypatch.setitem(sys.modules, full, module)
        if i > 1:
            monkeypatch.setattr(sys.modules[".".join(parts[: i - 1])], parts[i - 1], module, raising=False)
    for key, value in content.items():
        setattr(sys.modules[name], key, value)
