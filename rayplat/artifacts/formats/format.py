"""What a model format is to the platform: how a model is recognised, and what a loaded one can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy.typing as npt

from rayplat.artifacts.formats.tree import Tree


@dataclass(frozen=True)
class Format:
    """What a tree holds, judged by its bytes.

    ``name`` is ``torch_export``, ``safetensors``, ``onnx``, ``skops``, ``xgboost``, ``lightgbm``, ``graph`` or
    ``code``. With ``runs_code`` loading it executes code that the tree brings, and ``reason`` says why; ``files`` come
    first that decide this, else they are the model's own.
    """

    name: str
    runs_code: bool
    files: tuple[str, ...]
    reason: str = ""


class Predictor(Protocol):
    """A loaded model. ``columns`` maps each input's name to n values (a column) or an array of n rows; the answer maps
    each output's name to an array whose first dimension is n. A model of one matrix takes its columns by name where
    the tree names them, or one array of shape [n, width] under any name. Raises `SchemaMismatch`."""

    def predict(self, columns: Mapping[str, Any]) -> Mapping[str, npt.NDArray[Any]]: ...


class Reader(Protocol):
    """One format that is only data. Reads nothing but the files it is given."""

    @property
    def name(self) -> str: ...

    @property
    def suffixes(self) -> tuple[str, ...]: ...

    def recognises(self, head: bytes) -> bool:
        """Whether a file that begins with ``head`` (64 bytes, fewer of a small file) is of this format."""
        ...

    def audit(self, path: str, file: BinaryIO, tree: Tree) -> str:
        """Refuse (`InvalidInput`) what is broken or dangerous. Returns why loading would run code; "" where not."""
        ...

    def load(self, folder: Path, path: str, names: tuple[str, ...]) -> Predictor:
        """The model in an audited file of ``folder``. ``names`` are the input columns that the tree declares."""
        ...
