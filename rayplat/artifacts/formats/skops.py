"""skops files: scikit-learn models as a zip of JSON and plain arrays. Which types may be in one is our list, kept here;
the list that an MLmodel carries along is never read.

Types outside of the list count as code: making them calls what the file names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from rayplat.artifacts.formats import archives, arrays
from rayplat.artifacts.formats import columns as tabular
from rayplat.artifacts.formats.tree import Tree
from rayplat.artifacts.formats.trees import check_children
from rayplat.errors import InvalidInput, SchemaMismatch, TooLarge, Unavailable

SCHEMA = "schema.json"
_MAX_SCHEMA = 256 << 20
_MAX_DEPTH = 200
_MEMBER = re.compile(r"[0-9a-zA-Z-]{1,64}\.(npy|npz|bin)|schema\.json")
# how skops makes an object: only the ways that call nothing the file chose (no functions, methods, partials, reduce)
_LOADERS = {"CachedNode", "DictNode", "ListNode", "SetNode", "TupleNode", "BytesNode", "SliceNode", "TypeNode"}
_LOADERS |= {"ObjectNode", "JsonNode", "NdArrayNode", "MaskedArrayNode", "DTypeNode", "RandomStateNode"}
_LOADERS |= {"SparseMatrixNode", "TreeNode"}
_SKLEARN = (
    "calibration cluster compose cross_decomposition decomposition discriminant_analysis dummy ensemble"
    " feature_selection gaussian_process impute isotonic kernel_ridge linear_model mixture multiclass multioutput"
    " naive_bayes neural_network pipeline preprocessing random_projection svm tree"
)
_TYPES = (
    re.compile(r"builtins\.(dict|list|tuple|set|frozenset|str|int|float|bool|bytes|complex|slice|NoneType)"),
    re.compile(r"collections\.OrderedDict"),
    re.compile(r"numpy\.(ndarray|dtype|generic|bool_?|str_|bytes_|u?int\d+|float\d+|complex\d+|ma\.MaskedArray)"),
    re.compile(r"numpy\.ma(\.core)?\.MaskedArray|numpy\.random(\.mtrand)?\.RandomState|numpy\.dtypes\.\w+DType"),
    re.compile(r"scipy\.sparse(\._\w+)?\.\w+_(matrix|array)"),
    re.compile(rf"sklearn\.({'|'.join(_SKLEARN.split())})(\._\w+)*\._?[A-Z]\w*"),
)
_NOT = re.compile(r".*\.(FunctionTransformer|HistGradientBoosting\w*|TreePredictor|_BinMapper|\w*Loss)")


class SkopsReader:
    """Files ``*.skops``."""

    name = "skops"
    suffixes = (".skops",)

    def recognises(self, head: bytes) -> bool:  # noqa: ARG002 - the same as of any zip
        """A skops file begins like any zip: `detect` looks for its schema."""
        return False

    def audit(self, path: str, file: BinaryIO, tree: Tree) -> str:  # noqa: ARG002 - the archive says all
        archive = archives.open_zip(file, path)
        for info in archive.infolist():
            if not _MEMBER.fullmatch(info.filename):
                raise InvalidInput(path, f"the record {info.filename!r} has no place in a skops file")
            if info.filename.endswith(".npy"):
                with archive.open(info) as member:
                    if arrays.holds_objects(member, f"{path}/{info.filename}"):
                        raise InvalidInput(path, f"the array {info.filename!r} is of pickled Python objects")
        if SCHEMA not in archive.namelist():
            raise InvalidInput(path, f"it holds no {SCHEMA}")
        if archive.getinfo(SCHEMA).file_size > _MAX_SCHEMA:
            raise TooLarge(f"{path}/{SCHEMA}", archive.getinfo(SCHEMA).file_size, _MAX_SCHEMA)
        return _foreign(_parsed(archive.read(SCHEMA), path), path)

    def load(self, folder: Path, path: str, names: tuple[str, ...]) -> SkopsModel:
        try:
            import skops.io
        except ImportError as e:
            raise Unavailable("skops", "these models need it: pip install skops") from e
        try:
            types = [name for name in skops.io.get_untrusted_types(file=folder / path) if permitted(name)]
            model = skops.io.load(folder / path, trusted=types)
        except Exception as e:
            raise InvalidInput(path, f"skops cannot read it: {type(e).__name__}: {str(e)[:300]}") from e
        for tree in _trees(model, set(), 0):
            check_children(path, tree.children_left, tree.children_right, tree.feature, int(tree.n_features))
        return SkopsModel(model, names)


class SkopsModel:
    """A fitted estimator: ``prediction``, and ``probability`` [n, classes] where it has them. Numbers are computed with
    as wide as they come."""

    def __init__(self, model: Any, names: tuple[str, ...]) -> None:
        if not callable(getattr(model, "predict", None)):
            raise InvalidInput("skops", f"it holds a {type(model).__name__}, which cannot predict")
        own = getattr(model, "feature_names_in_", None)
        self.estimator, self.names = model, tuple(map(str, own)) if own is not None else names
        self.width: int | None = getattr(model, "n_features_in_", None)
        self._framed = own is not None and _selects_by_name(model, set(), 0)
        if own is not None and not self._framed:
            _forget_names(model, set(), 0)  # else it would warn of every matrix without names
        self._answers: dict[str, Any] = {"prediction": model.predict}
        if hasattr(model, "predict_proba"):
            self._answers["probability"] = model.predict_proba

    @property
    def answers(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return tuple(self._answers)

    def answer_with(self, function: str) -> None:
        """From now on give what the estimator's ``function`` (``predict``, ``predict_proba``, …) gives, and nothing
        else, as ``prediction``. Raises `InvalidInput` where it has no such function."""
        found = getattr(self.estimator, function, None)
        if not callable(found):
            raise InvalidInput("predict_fn", f"a {type(self.estimator).__name__} has no {function[:60]!r}")
        self._answers = {"prediction": found}

    def predict(self, columns: Mapping[str, Any]) -> Mapping[str, npt.NDArray[Any]]:
        x: Any = self._frame(columns) if self._framed else tabular.matrix(columns, self.names, self.width, None)
        found: dict[str, npt.NDArray[Any]] = {}
        try:
            for name, call in self._answers.items():
                found |= tabular.outputs(name, call(x), len(x))
        except (ValueError, TypeError, AttributeError, IndexError) as e:
            raise SchemaMismatch("inputs", f"the model cannot compute with them: {str(e).splitlines()[0][:300]}") from e
        return found

    def probabilities(self, columns: Mapping[str, Any]) -> npt.NDArray[Any] | None:
        """[n, classes], whatever it answers with; None where it has none."""
        if not hasattr(self.estimator, "predict_proba"):
            return None
        x = self._frame(columns) if self._framed else tabular.matrix(columns, self.names, self.width, None)
        return np.asarray(self.estimator.predict_proba(x))

    def _frame(self, columns: Mapping[str, Any]) -> Any:
        """For a model that picks its columns by name, text among them."""
        import pandas

        whole = tabular.only_matrix(columns)
        if whole is not None:
            x = tabular.matrix(columns, self.names, self.width, None)
            return pandas.DataFrame(x, columns=list(self.names), copy=False)
        absent = next((name for name in self.names if name not in columns), None)
        if absent is not None:
            raise SchemaMismatch(absent, "this column is absent and the model needs it")
        try:
            return pandas.DataFrame({name: columns[name] for name in self.names}, copy=False)
        except ValueError as e:
            raise SchemaMismatch("inputs", f"every column needs the same number of values: {str(e)[:200]}") from e


def permitted(name: str) -> bool:
    """Whether the platform lets the type ``name`` (``sklearn.tree._tree.Tree``) be made from a file."""
    return any(pattern.fullmatch(name) for pattern in _TYPES) and not _NOT.fullmatch(name)


def _parsed(content: bytes, path: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as e:
        raise InvalidInput(path, f"its {SCHEMA} is not JSON: {str(e)[:100]}") from e


def _foreign(schema: Any, path: str) -> str:
    """Which types outside of the list would be made, in words; "" for none."""
    foreign = {name for name in _made(schema, path, 0) if name}
    if not foreign:
        return ""
    return f"it makes {', '.join(sorted(foreign)[:5])}, which the platform's list of types does not have"


def _made(node: Any, path: str, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise InvalidInput(path, f"its {SCHEMA} is nested deeper than {_MAX_DEPTH}")
    if isinstance(node, list):
        for part in node:
            yield from _made(part, path, depth + 1)
    elif isinstance(node, dict):
        if "__loader__" in node or "__class__" in node:
            name = f"{node.get('__module__')}.{node.get('__class__')}"
            known = node.get("__loader__") in _LOADERS and permitted(name)
            yield "" if known else f"{name} ({node.get('__loader__')})"
        for part in node.values():
            yield from _made(part, path, depth + 1)


def _trees(value: Any, seen: set[int], depth: int) -> Iterator[Any]:
    """Every decision tree in a fitted estimator: their arrays index each other, and scikit-learn does not look."""
    for part in _parts(value, seen, depth):
        if type(part).__name__ == "Tree" and type(part).__module__ == "sklearn.tree._tree":
            yield part


def _selects_by_name(model: Any, seen: set[int], depth: int) -> bool:
    """Whether a step of the model finds its columns by their names, or hands names on."""
    return any(
        type(part).__name__ == "ColumnTransformer" or "_sklearn_output_config" in getattr(part, "__dict__", {})
        for part in _parts(model, seen, depth)
    )


def _forget_names(model: Any, seen: set[int], depth: int) -> None:
    for part in list(_parts(model, seen, depth)):
        getattr(part, "__dict__", {}).pop("feature_names_in_", None)


def _parts(value: Any, seen: set[int], depth: int) -> Iterator[Any]:
    """A fitted estimator and every object of scikit-learn in it."""
    if id(value) in seen or depth > _MAX_DEPTH:
        return
    seen.add(id(value))
    if isinstance(value, Mapping):
        for part in value.values():
            yield from _parts(part, seen, depth + 1)
    elif isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.dtype == object):
        for part in value if not isinstance(value, np.ndarray) else value.ravel():
            yield from _parts(part, seen, depth + 1)
    elif type(value).__module__.startswith("sklearn."):
        yield value
        yield from _parts(getattr(value, "__dict__", {}), seen, depth + 1)
