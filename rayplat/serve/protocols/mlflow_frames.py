"""The formats of MLflow's scoring protocol: bytes to columns by name, or to an array without one.

Follows `mlflow.pyfunc.scoring_server` and `mlflow.utils.proto_json_utils` of MLflow 3.17. Only what the format says is
judged here, not what the model takes.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO, StringIO
from typing import Any

from rayplat.errors import BadRequest, TooLarge, UnsupportedMediaType
from rayplat.serve.protocols import strict_json
from rayplat.serve.protocols.strict_json import short
from rayplat.types import Signature

JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"
FORMATS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_LLM = ("messages", "prompt", "input")
_MOST_FILLED = 1 << 20  # cells that a frame may leave out: a few bytes of ragged rows must not fill the memory
_MOST_COLUMNS = 10_000  # of a CSV file; pandas takes minutes for millions of them
_MOST_UNPACKED = 64 << 20  # bytes of a Parquet file, or what it packs to sixteenth
_PANDAS = {"BOOL": "bool", "INT32": "int32", "INT64": "int64", "FP32": "float32", "FP64": "float64"}


@dataclass(slots=True)
class Frame:
    """What a request holds. ``columns``: a list per name (positions where ``named`` is false), ``array``: one value or
    nested lists without a name. ``table``: it came as a data frame, whose casts are pandas's rather than numpy's.
    ``unwrapped``: an LLM's request, answered without ``predictions``."""

    columns: dict[str, list[Any]] | None = None
    array: Any = None
    named: bool = True
    table: bool = False
    params: dict[str, Any] = field(default_factory=dict)
    unwrapped: bool = False


def read(body: bytes, content_type: str, signature: Signature, max_rows: int) -> Frame:
    """The frame in ``body``. Raises `UnsupportedMediaType` for what MLflow does not take either, `BadRequest` for what
    is no frame."""
    media, _, rest = content_type.partition(";")
    said = {key.strip().lower(): value.strip() for key, _, value in (part.partition("=") for part in rest.split(";"))}
    if said.get("charset", "utf-8").strip('"').lower() not in ("utf-8", "utf8"):
        raise UnsupportedMediaType("The scoring server only supports UTF-8")
    if unknown := said.keys() - {"charset", ""}:
        raise UnsupportedMediaType(f"Unrecognized content type parameters: {', '.join(map(short, sorted(unknown)))}")
    kind = media.strip().lower()
    if kind in (JSON, ""):
        return _from_json(strict_json.load_object(body), signature)
    if kind == CSV:
        return _from_csv(body, signature)
    if kind == PARQUET:
        return _from_parquet(body, max_rows)
    kinds = f"['{CSV}', '{JSON}', '{PARQUET}']"
    raise UnsupportedMediaType(f"This predictor only supports the content types {kinds}, got {short(content_type)!r}")


# --- JSON -----------------------------------------------------------------------------------------


def _from_json(given: dict[str, Any], signature: Signature) -> Frame:
    if any(key in given for key in _LLM) and not any(key in given for key in FORMATS):
        names = {spec.name for spec in signature.params}
        row = {key: [value] for key, value in given.items() if key not in names}
        return Frame(row, table=True, params={k: v for k, v in given.items() if k in names}, unwrapped=True)
    formats = [name for name in FORMATS if name in given]
    if len(formats) != 1:
        found = ", ".join(short(key) for key in list(given)[:12])
        raise BadRequest(
            f"The input must be a JSON dictionary with exactly one of the input fields {{{', '.join(FORMATS)}}}. "
            f"Received dictionary with input fields: [{found}]"
        )
    frame = _READERS[formats[0]](given[formats[0]])
    frame.params = _params(given.get("params"), signature)
    return frame


def _params(value: Any, signature: Signature) -> dict[str, Any]:
    if value is None or (not isinstance(value, dict) and not signature.params):
        return {}  # MLflow ignores parameters of a model that declares none
    if not isinstance(value, dict):
        raise BadRequest(f"Parameters must be a dictionary. Got {strict_json.type_name(value)}")
    return value


def _split(value: Any) -> Frame:
    if not isinstance(value, dict):
        raise BadRequest(f"Dataframe split format must be a dictionary. Got {strict_json.type_name(value)}")
    if "data" not in value or value.keys() - {"columns", "data", "index"}:
        keys = ", ".join(short(key) for key in value)
        raise BadRequest(
            f"Dataframe split format must have 'data' field and optionally 'columns' and 'index' fields. Got [{keys}]"
        )
    rows, names, index = value["data"], value.get("columns"), value.get("index")
    if not isinstance(rows, list) or not isinstance(names, list | None) or not isinstance(index, list | None):
        raise BadRequest("Provided dataframe_split field is not valid: data, columns and index must be arrays")
    if index is not None and len(index) != len(rows):
        raise BadRequest(f"dataframe_split: index has {len(index)} values, data has {len(rows)} rows")
    rows = [row if isinstance(row, list) else [row] for row in rows]
    width = max(map(len, rows), default=len(names or []))
    if names is not None and width != len(names):
        raise BadRequest(f"dataframe_split: {len(names)} columns passed, passed data had {width} columns")
    short_rows = [i for i, row in enumerate(rows) if len(row) != width]
    _check_filled("dataframe_split", len(rows) * width - sum(map(len, rows)))
    for i in short_rows:  # pandas fills them up
        rows[i] = [*rows[i], *[None] * (width - len(rows[i]))]
    found = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]
    named = _names(names) if names is not None else [str(i) for i in range(width)]
    return Frame(dict(zip(named, found, strict=True)), named=names is not None, table=True)


def _records(value: Any) -> Frame:
    if not isinstance(value, list):
        raise BadRequest(f"Dataframe records format must be a list of records. Got {strict_json.type_name(value)}")
    return _of_rows(value, "dataframe_records")


def _instances(value: Any) -> Frame:
    """Rows of named values, or an array whose first dimension is the rows."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        frame = _of_rows(value, "instances")
        frame.table = False
        for name in frame.columns or {}:
            if any(name not in row for row in value):
                raise BadRequest(
                    "The length of values for each input/column name are not the same: "
                    f"instances[{next(i for i, row in enumerate(value) if name not in row)}] has no {short(name)!r}"
                )
        return frame
    return _inputs(value)


def _inputs(value: Any) -> Frame:
    if isinstance(value, dict):
        return Frame(_equal({name: item if isinstance(item, list) else [item] for name, item in value.items()}))
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        frame = _of_rows(value, "inputs")
        frame.table = False
        return frame
    return Frame(array=value, named=False)


def _of_rows(rows: list[Any], where: str) -> Frame:
    """Columns of objects; what an object lacks is missing."""
    if len(rows) == 1 and isinstance(rows[0], dict):
        return Frame({name: [value] for name, value in rows[0].items()}, table=True)
    names: dict[str, None] = {}
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            raise BadRequest(f"{where}[{i}] must be an object, found {strict_json.type_name(row)}")
        if len(row) != len(names) or row.keys() != names.keys():
            names |= dict.fromkeys(row)
    _check_filled(where, len(rows) * len(names) - sum(map(len, rows)))
    return Frame({name: [row.get(name) for row in rows] for name in names}, table=True)


def _equal(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    sizes = {name: len(values) for name, values in columns.items()}
    if len(set(sizes.values())) > 1:
        shown = ", ".join(f"{short(name)}: {size}" for name, size in list(sizes.items())[:12])
        raise BadRequest(f"The length of values for each input/column name are not the same: {shown}")
    return columns


def _check_filled(where: str, cells: int) -> None:
    if cells > _MOST_FILLED:
        raise TooLarge(where, cells, _MOST_FILLED, "missing cells")


def _names(names: list[Any]) -> list[str]:
    found = [name if isinstance(name, str) else str(name) for name in names]
    twice = strict_json.repeated(found)
    if twice is not None:
        raise BadRequest(f"dataframe_split: the column {short(twice)!r} is given twice")
    return found


_READERS = {
    "dataframe_split": _split,
    "dataframe_records": _records,
    "instances": _instances,
    "inputs": _inputs,
}


# --- files ----------------------------------------------------------------------------------------


def _from_csv(body: bytes, signature: Signature) -> Frame:
    import pandas

    try:
        decoded = body.decode()
    except UnicodeDecodeError as e:
        raise BadRequest(f"Ensure that input is a valid UTF-8 encoded string (byte {e.start})") from None
    if "\x00" in decoded:
        raise BadRequest("Failed to parse input as a Pandas DataFrame: it holds a NUL character")
    _check_width(decoded)
    dtypes: Mapping[str, Any] = {
        spec.name: _PANDAS.get(spec.datatype, "object") if not spec.wide else "float64" for spec in signature.inputs
    }
    keys = dict.fromkeys(signature.keys, "object")
    try:
        table = pandas.read_csv(StringIO(decoded), dtype={**dtypes, **keys})
    except (ValueError, TypeError, LookupError, OverflowError) as e:
        reason = short(str(e).replace("\n", " "))
        raise BadRequest(f"Failed to parse input as a Pandas DataFrame, it must be valid CSV: {reason}") from None
    return _of_pandas(table)


def _check_width(text: str) -> None:
    if text.count(",") < _MOST_COLUMNS:
        return
    try:
        width = max(map(len, csv.reader(StringIO(text, newline=""))), default=0)
    except csv.Error as e:
        raise BadRequest(f"Failed to parse input as a Pandas DataFrame, it must be valid CSV: {e}") from None
    if width > _MOST_COLUMNS:
        raise TooLarge("the CSV file", width, _MOST_COLUMNS, "columns")


def _from_parquet(body: bytes, max_rows: int) -> Frame:
    """Text stays in the file's dictionaries: one long value of many rows is one value in memory, too."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(BytesIO(body))
        size = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
        if size > max(_MOST_UNPACKED, 16 * len(body)):
            raise TooLarge("the unpacked Parquet file", size, max(_MOST_UNPACKED, 16 * len(body)))
        rows = file.metadata.num_rows
        if rows <= max_rows:
            texts = [field.name for field in file.schema_arrow if pa.types.is_string(field.type)]
            return _of_pandas(parquet.ParquetFile(BytesIO(body), read_dictionary=texts).read().to_pandas())
    except (ValueError, OSError, TypeError, LookupError) as e:
        reason = short(str(e).replace("\n", " "))
        raise BadRequest(f"Failed to parse input as a Pandas DataFrame, it must be valid Parquet: {reason}") from None
    raise TooLarge("the request", rows, max_rows, "rows")


def _of_pandas(table: Any) -> Frame:
    columns: dict[str, list[Any]] = {}
    for name in table.columns:
        values = table[name]
        if values.dtype.kind == "M":
            columns[str(name)] = [None if value is None or value != value else value.isoformat() for value in values]
        else:
            columns[str(name)] = [None if value != value else value for value in values.tolist()]
    return Frame(columns, table=True)
