"""From named feature columns to the two arrays a tabular model takes, the same way in training and in serving.

Knows no model and no torch: numbers go through as float32 (NaN = missing), strings become positions in the
vocabulary of the training rows, and position 0 stands for what is missing or was never seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from rayplat.errors import SchemaMismatch
from rayplat.types import FeatureSpec

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Encoding:
    """``features`` in the order of the training set; ``vocabularies`` holds one tuple per categorical feature."""

    features: tuple[FeatureSpec, ...]
    vocabularies: tuple[tuple[str, ...], ...]

    @cached_property
    def numeric(self) -> tuple[str, ...]:
        return tuple(f.name for f in self.features if f.kind == "numeric")

    @cached_property
    def categorical(self) -> tuple[str, ...]:
        return tuple(f.name for f in self.features if f.kind == "categorical")

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Codes per categorical feature, the shared code 0 included."""
        return tuple(len(words) + 1 for words in self.vocabularies)

    @cached_property
    def _codes(self) -> tuple[dict[str | None, int], ...]:
        return tuple({word: i + 1 for i, word in enumerate(words)} for words in self.vocabularies)

    @cached_property
    def _words(self) -> tuple[Any, ...]:
        import pyarrow as pa

        return tuple(pa.array(words, pa.string()) for words in self.vocabularies)

    @cached_property
    def _required_numeric(self) -> list[int]:
        needed = {f.name for f in self.features if not f.nullable}
        return [i for i, name in enumerate(self.numeric) if name in needed]

    @cached_property
    def _required_categorical(self) -> frozenset[str]:
        return frozenset(f.name for f in self.features if not f.nullable and f.kind == "categorical")

    def encode(self, columns: Mapping[str, Any]) -> tuple[Floats, Codes]:
        """``(numeric [n, d] float32, categorical [n, c] int64)``. Columns that are no features are ignored; text may be
        an Arrow column too, which is looked up as a whole.

        Raises `SchemaMismatch`: a column that is absent, of another length, of the wrong kind, or missing a value
        where the feature forbids it.
        """
        rows = self._rows(columns)
        x = _one_row([columns[name] for name in self.numeric]) if rows == 1 else None
        if x is None:
            x = np.empty((rows, len(self.numeric)), dtype=np.float32)
            for i, name in enumerate(self.numeric):
                x[:, i] = _numbers(name, columns[name])
        if self._required_numeric and np.isnan(x).any():
            for i in self._required_numeric:
                if np.isnan(x[:, i]).any():
                    raise SchemaMismatch(self.numeric[i], "a value is missing (null or NaN) and the model needs it")
        c = np.empty((rows, len(self.categorical)), dtype=np.int64)
        for i, name in enumerate(self.categorical):
            codes, values = self._codes[i], columns[name]
            if hasattr(values, "null_count"):
                c[:, i] = self._looked_up(i, values)
                if values.null_count and name in self._required_categorical:
                    raise SchemaMismatch(name, "a value is missing (null) and the model needs it")
                continue
            try:
                c[:, i] = [codes.get(value, 0) for value in values]
            except TypeError as e:
                raise SchemaMismatch(name, "strings or null are expected") from e
            if name in self._required_categorical and any(value is None for value in values):
                raise SchemaMismatch(name, "a value is missing (null) and the model needs it")
        return x, c

    def encode_table(self, table: Any) -> tuple[Floats, Codes]:
        """`encode` for a whole ``pyarrow.Table``, without a Python object per value. Nulls are never refused here."""
        import pyarrow as pa

        x = np.empty((table.num_rows, len(self.numeric)), dtype=np.float32)
        for i, name in enumerate(self.numeric):
            x[:, i] = table[name].cast(pa.float32(), safe=False).fill_null(float("nan")).to_numpy()
        c = np.empty((table.num_rows, len(self.categorical)), dtype=np.int64)
        for i, name in enumerate(self.categorical):
            c[:, i] = self._looked_up(i, table[name])
        return x, c

    def _looked_up(self, i: int, column: Any) -> Codes:
        """Codes [n] of an Arrow column in the vocabulary of the categorical feature ``i``."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if pa.types.is_dictionary(column.type):
            parts = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
            found = [self._of_dictionary(i, part) for part in parts]
            return found[0] if len(found) == 1 else np.concatenate([np.empty(0, np.int64), *found])
        at = pc.index_in(column.cast(pa.string()), value_set=self._words[i], skip_nulls=True)
        codes: Codes = pc.fill_null(pc.add(at.cast(pa.int64()), 1), 0).to_numpy()
        return codes

    def _of_dictionary(self, i: int, part: Any) -> Codes:
        """The same for one ``pyarrow.DictionaryArray``; batches that share their words look them up once."""
        words, codes = self._last_words.get(i, (None, None))
        if codes is None or not part.dictionary.equals(words):
            codes = np.append(self._looked_up(i, part.dictionary), 0)  # the last is null's
            self._last_words[i] = part.dictionary, codes
        at = part.indices
        if part.null_count:
            at = at.cast("int64").fill_null(len(codes) - 1)
        found: Codes = codes.take(at.to_numpy())
        return found

    @cached_property
    def _last_words(self) -> dict[int, tuple[Any, Codes]]:
        """The dictionary that was met last, with its codes, by categorical feature."""
        return {}

    def to_json(self) -> dict[str, Any]:
        return {"vocabularies": dict(zip(self.categorical, map(list, self.vocabularies), strict=True))}

    @classmethod
    def from_json(cls, features: tuple[FeatureSpec, ...], stored: dict[str, Any]) -> Encoding:
        """The encoding of ``features``. Raises KeyError or TypeError where ``stored`` does not fit them."""
        names = [f.name for f in features if f.kind == "categorical"]
        return cls(features, tuple(tuple(str(word) for word in stored["vocabularies"][name]) for name in names))

    def _rows(self, columns: Mapping[str, Any]) -> int:
        rows = -1
        for feature in self.features:
            try:
                found = len(columns[feature.name])
            except KeyError:
                raise SchemaMismatch(feature.name, "this column is absent and the model needs it") from None
            except TypeError:
                raise SchemaMismatch(feature.name, "a list of values is expected, one per row") from None
            if rows not in (-1, found):
                raise SchemaMismatch(feature.name, f"has {found} rows where the other columns have {rows}")
            rows = found
        return rows


def _one_row(values: list[Any]) -> Floats | None:
    """[1, d] of arrays of one number each, in one call of numpy: the commonest request. None for anything else."""
    if not values or not all(isinstance(value, np.ndarray) and value.ndim == 1 for value in values):
        return None
    row = np.concatenate(values)
    if row.dtype.kind not in "fiub" or row.shape != (len(values),):
        return None
    return row.reshape(1, -1).astype(np.float32, copy=False)


def _numbers(name: str, values: Any) -> Any:
    array = values if isinstance(values, np.ndarray) else np.asarray(values)
    if array.dtype.kind in "fiub" and array.ndim == 1:
        return array
    if array.dtype.kind == "O" and array.ndim == 1 and not any(isinstance(v, str | bytes) for v in array):
        try:
            return array.astype(np.float32)  # None becomes NaN
        except (TypeError, ValueError):
            pass
    raise SchemaMismatch(name, "a list of numbers (or null) is expected")
