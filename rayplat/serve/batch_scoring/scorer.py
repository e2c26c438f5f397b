"""The worker of a batch scoring job: one loaded model, part after part read, scored and written as files.

Runs as an actor of Ray Data; the job commits what it wrote. A row that cannot be scored is written with the reason in
its column ``error`` and null predictions.
"""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayplat import actors
from rayplat.data.features import FeatureView, OnRequestView, View
from rayplat.data.features.transforms import on_request, with_defaults
from rayplat.errors import InvalidInput, RayplatError, SchemaMismatch
from rayplat.serve.batch_scoring.columns import Reader, output_columns, taken
from rayplat.serve.batch_scoring.plan import OWN_COLUMNS, Plan
from rayplat.serve.log import schema as log_schema
from rayplat.serve.log.schema import Record
from rayplat.serve.ports import LoadedVersion, Loader
from rayplat.types import AliasHead

if TYPE_CHECKING:
    from rayplat.data.tables import Tables
    from rayplat.data.tables.batch import Written
    from rayplat.data.tables.scan import Scan

ROW = "__row"  # position in the input, of rows whose features were joined
_ROLE = "batch"
_MOST_FAILURES = 256  # predictions of one batch that may fail on the search for the rows that are to blame
_REASON = 500


@dataclass(frozen=True)
class Task:
    """What a worker needs: the plan, the pinned ``scan`` of the input, where to write, how to load the model. ``views``
    complete rows that were joined with their features. ``log``: answers go to the inference log too."""

    plan: Plan
    scan: Scan
    tables: Tables
    loader: Loader
    views: tuple[View, ...] = ()
    log: bool = False


@dataclass(frozen=True)
class Done:
    """A part whose files are written. ``busy_s`` is the time it took its worker, without its wait for another part;
    ``began_at`` when that began (seconds since 1970)."""

    part: int
    written: Written
    scored: int
    failed: int
    busy_s: float
    began_at: float


@dataclass
class _Scored:
    """Results of a part's batches so far; ``good`` and ``reasons`` go by positions in the part."""

    outputs: list[Mapping[str, Any]] = field(default_factory=list)
    good: list[npt.NDArray[np.int64]] = field(default_factory=list)
    reasons: dict[int, str] = field(default_factory=dict)


class Scorer:
    """Loads the model once; called with a table of one part, it scores the part. Two calls at a time keep the worker
    busy: one part is read or written while another is computed. A model that does not load is told of
    by the first call. Our errors are answers: of what an actor raises, only text reaches the driver."""

    def __init__(self, task: Task) -> None:
        actors.give_way()
        self._task = task
        plan = task.plan
        self._loaded: LoadedVersion
        self._failure: Exception | None = None
        try:
            self._loaded = task.loader.load(plan.model, plan.version, plan.digest)
        except Exception as e:  # noqa: BLE001 - raised again by `part`
            self._failure = e
        self._reader: Reader | None = None
        self._computing = threading.Lock()  # one part is computed while another is read or written

    def __call__(self, block: pa.Table) -> pa.Table:
        """``block`` holds a part's rows with their features, or only its number (``part``); the answer is a pickled
        `Done` or error of ours."""
        plan = self._task.plan
        if "part" in block.column_names:
            number, rows = int(block["part"][0].as_py()), None
        else:
            number, rows = int(block[ROW][0].as_py()) // plan.request.part_rows, block
        done: Done | RayplatError
        try:
            done = self.part(number, rows)
        except RayplatError as e:
            done = e.with_traceback(None)
        return pa.table({"done": [pickle.dumps(done)]})

    def part(self, number: int, rows: pa.Table | None = None) -> Done:
        """Score one part and write it."""
        if self._failure is not None:
            raise self._failure
        began, began_at = time.perf_counter(), time.time()
        rows = self._read(number) if rows is None else self._completed(rows)
        came = time.perf_counter()
        with self._computing:
            waited_s = time.perf_counter() - came
            scored = self._scored(number, rows)
        table = self._table(number, rows, scored)
        written = self._task.tables.write_files(self._task.plan.request.output, table)
        failed = len(scored.reasons)
        busy_s = time.perf_counter() - began - waited_s
        return Done(number, written, rows.num_rows - failed, failed, busy_s, began_at)

    def _scored(self, number: int, rows: pa.Table) -> _Scored:
        """The answers for a part's rows, batch after batch."""
        scored = _Scored()
        values, good = self._inputs(rows, scored)
        step = self._task.plan.request.batch_rows
        for start in range(0, len(good), step):
            batch, first = _sliced(values, start, start + step), len(scored.good)
            self._predict(batch, good[start : start + step], scored)
            if self._task.log:
                answered = list(zip(scored.good[first:], scored.outputs[first:], strict=True))
                self._log(rows, (number, start // step), (batch, good[start : start + step]), answered)
        return scored

    # --- rows -----------------------------------------------------------------------------------------

    def _read(self, number: int) -> pa.Table:
        request, scan = self._task.plan.request, self._task.scan
        names = Reader.wanted(self._loaded.signature, scan.schema, request.columns)
        absent = [name for name in (*request.keys, *names) if name not in scan.schema.names]
        if absent:
            there = ", ".join(scan.schema.names)
            raise SchemaMismatch(absent[0], f"table {request.input[0]!r} has no such column, there are {there}")
        words = [name for name in names if name not in request.keys] if self._encodes else []
        return scan.slice(*self._task.plan.span(number), list(dict.fromkeys([*request.keys, *names])), words=words)

    @property
    def _encodes(self) -> bool:
        """Whether the model takes Arrow columns of text: our own encode these themselves. The log wants values."""
        return self._loaded.spec is not None and not self._task.log

    def _completed(self, rows: pa.Table) -> pa.Table:
        """Joined rows with defaults and the features that are computed on request."""
        for view in self._task.views:
            if isinstance(view, FeatureView):
                rows = with_defaults(view, rows)
        for view in self._task.views:
            if isinstance(view, OnRequestView):
                columns = {name: rows[name] for name in rows.column_names}
                for name, column in on_request(view, columns, rows.num_rows).items():
                    rows = rows.append_column(name, column)
        return rows

    def _reader_of(self, schema: pa.Schema) -> Reader:
        if self._reader is None:
            loaded, request = self._loaded, self._task.plan.request
            self._reader = Reader(loaded.signature, schema, request.columns, arrow=self._encodes)
            taken = [name for name in loaded.signature.output_names if name in (*request.keys, *OWN_COLUMNS)]
            if taken:
                raise InvalidInput("keys", f"{taken[0]!r} is an output of the model; leave it out or rename the column")
        return self._reader

    # --- scoring --------------------------------------------------------------------------------------

    def _inputs(self, rows: pa.Table, into: _Scored) -> tuple[dict[str, Any], npt.NDArray[np.int64]]:
        """The inputs of the rows that can be scored, and their positions."""
        given = self._reader_of(rows.schema).read(rows)
        good = np.arange(rows.num_rows) if given.good is None else given.good
        unknown = self._unknown(rows)
        into.reasons |= given.reasons | unknown
        if not unknown:
            return given.values, good
        keep = np.flatnonzero(~np.isin(good, np.fromiter(unknown, np.int64)))
        return {name: taken(column, keep) for name, column in given.values.items()}, good[keep]

    def _unknown(self, rows: pa.Table) -> dict[int, str]:
        """Rows whose key no view knew at the moment, as online requests are refused."""
        plan = self._task.plan
        own = [view for view in self._task.views if isinstance(view, FeatureView) and plan.entity in view.keys]
        names = [name for view in own for name in view.feature_names if name in rows.column_names]
        if not names or plan.entity is None:
            return {}
        nobody = np.ones(rows.num_rows, np.bool_)
        for name in names:
            nobody &= rows[name].is_null().to_numpy()
        keys = rows[plan.entity]
        return {
            row: f"{plan.entity}: unknown {plan.entity} {keys[row].as_py()!r}"
            for row in np.flatnonzero(nobody).tolist()
        }

    def _predict(self, values: Mapping[str, Any], good: npt.NDArray[np.int64], into: _Scored) -> None:
        """Outputs of a batch, with the positions that they belong to. A prediction that fails is tried in halves, so
        that only the rows that are to blame are left out."""
        waiting, failures = [(0, len(good))], 0
        while waiting:
            first, last = waiting.pop()
            part = values if last - first == len(good) else _sliced(values, first, last)
            try:
                outputs: Mapping[str, Any] = self._checked(self._loaded.predict(part, {}), last - first)
            except Exception as e:  # noqa: BLE001 - a model may raise anything; the reason is kept with the rows
                failures += 1
                if last - first > 1 and failures <= _MOST_FAILURES:
                    middle = (first + last) // 2
                    waiting += [(middle, last), (first, middle)]
                else:
                    into.reasons |= dict.fromkeys(good[first:last].tolist(), _reason(e))
                continue
            positions = good[first:last]
            if self._loaded.spec is not None:
                positions, outputs = _finite(positions, outputs, into.reasons)
            into.good.append(positions)
            into.outputs.append(outputs)

    def _checked(self, outputs: Mapping[str, Any], rows: int) -> dict[str, npt.NDArray[Any]]:
        arrays = {name: np.asarray(values) for name, values in outputs.items()}
        for name, values in arrays.items():
            if values.ndim == 0 or len(values) != rows:
                raise InvalidInput(name, f"the model gave {values.shape} values for {rows} rows")
        return arrays

    # --- results --------------------------------------------------------------------------------------

    def _table(self, number: int, rows: pa.Table, scored: _Scored) -> pa.Table:
        plan, count = self._task.plan, rows.num_rows
        good = None if not scored.reasons else np.concatenate([*scored.good, np.empty(0, np.int64)])
        columns: dict[str, Any] = {name: rows[name] for name in plan.request.keys}
        columns |= output_columns(scored.outputs, good, count)
        first = plan.span(number)[0]
        columns["row"] = pa.array(np.arange(first, first + count))
        columns["model_version"] = _same(plan.version, count)
        columns["model_alias"] = _same(plan.alias, count, pa.string())
        columns["scored_at"] = _same(datetime.now(UTC), count, pa.timestamp("us", tz="UTC"))
        columns["job_id"] = _same(plan.job_id, count)
        reasons = [None] * count if not scored.reasons else [scored.reasons.get(row) for row in range(count)]
        columns["error"] = pa.array(reasons, pa.string())
        return pa.table(columns)

    def _log(
        self,
        rows: pa.Table,
        number: tuple[int, int],
        asked: tuple[Mapping[str, Any], npt.NDArray[np.int64]],
        answered: list[tuple[npt.NDArray[np.int64], Mapping[str, Any]]],
    ) -> None:
        """The ``answered`` rows of a batch (positions and outputs) in the inference log, once however often the part is
        scored: numbers of part and batch are the writer's epoch and sequence. ``asked``: its inputs and positions."""
        import ray

        plan, now = self._task.plan, datetime.now(UTC)
        head = AliasHead(
            plan.model, plan.alias or "", plan.version, plan.digest, plan.generation, plan.started_at, plan.job_id
        )
        records = []
        for i, (good, outputs) in enumerate(answered):
            at = np.searchsorted(asked[1], good)
            keys = rows[plan.entity].take(pa.array(good)).to_pylist() if plan.entity in rows.column_names else None
            records.append(
                Record(
                    request_id=f"{plan.job_id}-{number[0]}-{number[1]}-{i}",
                    rows=len(good),
                    received_at=now,
                    event_time=now,
                    head=head,
                    version=plan.version,
                    entity=keys,
                    inputs={name: taken(column, at) for name, column in asked[0].items()},
                    outputs=outputs,
                    latency_ms=float("nan"),
                    status=200,
                    variant=plan.alias or f"v{plan.version}",
                    role=_ROLE,
                )
            )
        writer = actors.find(actors.INFERENCE_LOG)
        if records and writer is not None:
            batch = log_schema.encode(records, plan.job_id)
            ray.get(writer.write.remote(batch, f"{plan.job_id}/{number[0]}", number[1]))


def _finite(
    positions: npt.NDArray[np.int64], outputs: Mapping[str, npt.NDArray[Any]], reasons: dict[int, str]
) -> tuple[npt.NDArray[np.int64], Mapping[str, npt.NDArray[Any]]]:
    """Without the rows for which an output is no finite number."""
    good = np.ones(len(positions), np.bool_)
    for name, values in outputs.items():
        if values.dtype.kind == "f":
            bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
            reasons |= dict.fromkeys(positions[bad].tolist(), f"the output {name!r} is no finite number")
            good &= ~bad
    if good.all():
        return positions, outputs
    return positions[good], {name: values[good] for name, values in outputs.items()}


def _sliced(values: Mapping[str, Any], first: int, last: int) -> dict[str, Any]:
    return {
        name: column.slice(first, last - first) if isinstance(column, pa.ChunkedArray) else column[first:last]
        for name, column in values.items()
    }


def _same(value: Any, count: int, dtype: pa.DataType | None = None) -> pa.Array:
    return pa.repeat(pa.scalar(value, dtype), count)


def _reason(error: BaseException) -> str:
    text = str(error) if isinstance(error, RayplatError) else f"{type(error).__name__}: {error}"
    return f"the model failed: {text}"[:_REASON]
