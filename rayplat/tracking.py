"""Tracked runs: the owner of MLflow tracking. One run per training, with params, metrics, data, files and model.

Speaks to the server only through ``MlflowClient``, so no process-wide "active run" or address is ever set. Knows
nothing of Ray, of the registry, or of what is trained.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from rayplat.artifacts import bundle
from rayplat.errors import InvalidInput, NotFound, Unavailable
from rayplat.types import ModelSpec, RunInfo, TableVersion

log = logging.getLogger(__name__)

T = TypeVar("T")
_MODEL_FOLDER = "model"
_HIDDEN_TAGS = ("mlflow.log-model.history",)
_MAX_PARAM_CHARS = 6000
AUTHOR_TAG = "rayplat.author"
_USER_TAG = "mlflow.user"
_LONGEST_AUTHOR = 255


class Tracking:
    """Runs on one MLflow server (or database): ``tracking_uri`` is its address. Cheap to make, connects when used."""

    def __init__(self, tracking_uri: str) -> None:
        self.tracking_uri = tracking_uri
        self._opened: Any = None

    def __repr__(self) -> str:
        return f"Tracking({self.tracking_uri!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {"tracking_uri": self.tracking_uri, "_opened": None}

    @contextmanager
    def start_run(self, experiment: str, name: str, tags: Mapping[str, str] | None = None) -> Iterator[Run]:
        """A run that ends FINISHED, or FAILED when the block is left by any exception, Ctrl-C and exit included.
        An experiment of that name is made where there is none."""
        found = self._ask(lambda client: client.get_experiment_by_name(experiment))
        experiment_id = found.experiment_id if found else self._create_experiment(experiment)
        started = self._ask(lambda client: client.create_run(experiment_id, tags=dict(tags or {}), run_name=name))
        run = Run(self, started.info.run_id)
        log.info("run started", extra={"run_id": run.run_id, "experiment": experiment})
        try:
            yield run
        except BaseException as e:
            run.set_tags({"rayplat.error": f"{type(e).__name__}: {e}"[:500]})
            self._end(run.run_id, "FAILED")
            raise
        self._end(run.run_id, "FINISHED")

    def runs(self, experiment: str | None = None, limit: int = 50) -> list[RunInfo]:
        """The newest runs first, of one experiment or of all. Raises NotFound for an unknown experiment."""
        experiments = {e.experiment_id: e.name for e in self._ask(lambda client: client.search_experiments())}
        wanted = [key for key, name in experiments.items() if experiment in (None, name)]
        if not wanted and experiment is not None:
            raise NotFound("experiment", experiment, f"there are {', '.join(sorted(experiments.values())) or 'none'}")
        order = ["attributes.start_time DESC"]
        found = self._ask(lambda client: client.search_runs(wanted, max_results=limit, order_by=order))
        return [_info(run, experiments.get(run.info.experiment_id, "")) for run in found]

    def get(self, run_id: str) -> RunInfo:
        """One run. Raises NotFound."""
        found = self._ask(lambda client: client.get_run(run_id), ("run", run_id))
        experiment = self._ask(lambda client: client.get_experiment(found.info.experiment_id))
        return _info(found, experiment.name)

    def compare(self, run_ids: Sequence[str]) -> dict[str, dict[str, str | float | None]]:
        """``{name: {run_id: value}}`` for each param and metric that is not the same in all runs; None: not logged."""
        if len(set(run_ids)) < 2:
            raise InvalidInput("run_ids", "give at least two different runs to compare")
        infos = [self.get(run_id) for run_id in dict.fromkeys(run_ids)]
        values: dict[str, dict[str, str | float | None]] = {}
        for name in sorted({name for info in infos for name in (*info.params, *info.metrics)}):
            row = {info.run_id: info.metrics.get(name, info.params.get(name)) for info in infos}
            if len(set(row.values())) > 1:
                values[name] = row
        return values

    def download_model(self, run_id: str, into: Path) -> Path:
        """The bundle that `Run.log_model` stored with a run, as a folder under ``into``."""
        into.mkdir(parents=True, exist_ok=True)
        found = self._ask(
            lambda client: client.download_artifacts(run_id, _MODEL_FOLDER, str(into)), ("model of run", run_id)
        )
        return Path(found)

    def _create_experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        try:
            return str(self._client().create_experiment(name))
        except MlflowException as e:
            if e.error_code != "RESOURCE_ALREADY_EXISTS":
                raise InvalidInput("experiment", str(e.message)) from e
        return str(self._ask(lambda client: client.get_experiment_by_name(name)).experiment_id)

    def _end(self, run_id: str, status: str) -> None:
        self._ask(lambda client: client.set_terminated(run_id, status=status))
        log.info("run ended", extra={"run_id": run_id, "status": status})

    def _client(self) -> Any:
        if self._opened is None:
            prepare_mlflow()
            from mlflow.tracking import MlflowClient

            self._opened = MlflowClient(self.tracking_uri)
        return self._opened

    def _ask(self, call: Callable[[Any], T], thing: tuple[str, str] | None = None) -> T:
        """One call of the client, its errors as ours. ``thing``: the kind and name that NotFound would name."""
        client = self._client()
        from mlflow.exceptions import MlflowException

        try:
            return call(client)
        except MlflowException as e:
            missing = e.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
            if thing is not None and missing:
                raise NotFound(*thing, "`rayplat run list` shows those there are") from e
            if e.error_code in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE"):
                raise Unavailable(f"the MLflow server at {self.tracking_uri}", str(e.message)[:300]) from e
            raise InvalidInput("run", str(e.message)[:500]) from e
        except OSError as e:
            if thing is not None and isinstance(e, FileNotFoundError):
                raise NotFound(*thing) from e
            raise Unavailable(f"the MLflow server at {self.tracking_uri}", str(e)[:300]) from e


class Run:
    """A run in progress, from `Tracking.start_run`."""

    def __init__(self, tracking: Tracking, run_id: str) -> None:
        self._tracking = tracking
        self.run_id = run_id

    def set_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        entities = [RunTag(key, str(value)) for key, value in tags.items()]
        self._tracking._ask(lambda client: client.log_batch(self.run_id, tags=entities))

    def log_params(self, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        entities = [Param(key, str(value)[:_MAX_PARAM_CHARS]) for key, value in params.items()]
        self._tracking._ask(lambda client: client.log_batch(self.run_id, params=entities))

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        from mlflow.entities import Metric

        now = int(datetime.now(UTC).timestamp() * 1000)
        entities = [Metric(key, float(value), now, step) for key, value in metrics.items()]
        self._tracking._ask(lambda client: client.log_batch(self.run_id, metrics=entities))

    def log_tables(self, tables: Sequence[TableVersion], context: str) -> None:
        """Table versions as inputs of the run. MLflow keeps one entry per name and digest of an experiment and
        its digests are short, so ours is taken from the whole identity, which also stands in the source."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        entities = []
        for table in tables:
            source = json.dumps(asdict(table), sort_keys=True)
            profile = json.dumps({"num_rows": table.row_count})
            dataset = Dataset(table.table, _dataset_digest(source), "rayplat_table", source, profile=profile)
            entities.append(DatasetInput(dataset, [InputTag("mlflow.data.context", context)]))
        self._tracking._ask(lambda client: client.log_inputs(self.run_id, entities))

    def log_text(self, text: str, path: str) -> None:
        self._tracking._ask(lambda client: client.log_text(self.run_id, text, path))

    def log_table(self, rows: Sequence[Mapping[str, Any]], path: str) -> None:
        """Rows with the same keys as a JSON table that MLflow's page shows as such."""
        columns = list(rows[0]) if rows else []
        self.log_text(json.dumps({"columns": columns, "data": [[row[c] for c in columns] for row in rows]}), path)

    def log_files(self, folder: Path, path: str = "") -> None:
        """Every file under ``folder``, below ``path`` of the run."""
        self._tracking._ask(lambda client: client.log_artifacts(self.run_id, str(folder), path or None))

    def log_model(self, folder: Path) -> None:
        """Describe the bundle in ``folder`` for MLflow (`describe_model`) and store it with the run."""
        describe_model(folder, self.run_id)
        self.log_files(folder, _MODEL_FOLDER)


def describe_model(folder: Path, run_id: str) -> None:
    """Add ``MLmodel`` and its companions to a bundle: MLflow then reads it as a ``python_function`` over named
    columns and as a ``pytorch`` graph. Requirements are named here, not inferred (that takes 12 s)."""
    prepare_mlflow()
    from importlib.metadata import version

    import mlflow.pyfunc
    from mlflow.models import Model

    spec = bundle.read_spec(folder)
    model = Model(run_id=run_id, signature=_signature(spec), metadata={"rayplat.model": spec.model})
    mlflow.pyfunc.add_to_model(model, loader_module="rayplat.artifacts.bundle", data=".", python_env="python_env.yaml")
    model.add_flavor("pytorch", model_data=str(Path(bundle.GRAPH_FILE).parent), pytorch_version=version("torch"))
    columns = bundle.read_example(folder)["columns"]
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    (folder / "input_example.json").write_text(json.dumps({"columns": list(columns), "data": rows}))
    model.saved_input_example_info = {
        "artifact_path": "input_example.json",
        "type": "dataframe",
        "pandas_orient": "split",
    }
    (folder / "requirements.txt").write_text("".join(f"{p}=={version(p)}\n" for p in ("numpy", "torch", "rayplat")))
    (folder / "python_env.yaml").write_text("dependencies:\n- -r requirements.txt\n")
    model.save(str(folder / "MLmodel"))


def _signature(spec: ModelSpec) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    kinds = {"numeric": "double", "categorical": "string"}
    inputs: list[Any] = [ColSpec(kinds[f.kind], f.name, required=not f.nullable) for f in spec.features]
    return ModelSignature(Schema(inputs), Schema([ColSpec("float", name) for name in spec.outputs]))


def prepare_mlflow() -> None:
    """Call before using MLflow: nothing sent home, few retries, no chatter. A person's own settings stand.

    Feast registers a provider of request headers with MLflow, so that the first HTTP request of any process would
    import all of Feast (9 s of CPU and 220 MB, *measured*) for headers that our server ignores: it is left out.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if "mlflow.tracking.request_header.registry" in sys.modules:
        return
    from mlflow.utils import plugins

    every = plugins.get_entry_points
    plugins.get_entry_points = lambda group: [e for e in every(group) if not e.value.startswith("feast.")]
    try:
        import mlflow.tracking.request_header.registry  # noqa: F401 - it reads the entry points once, when imported
    finally:
        plugins.get_entry_points = every


def run_author(tags: Mapping[str, str]) -> str:
    """Who started a run, by its tags: what the platform has noted, else MLflow's user; empty where neither is there or
    what is there can be no principal's name."""
    name = (tags.get(AUTHOR_TAG) or tags.get(_USER_TAG) or "").strip()
    return name if len(name) <= _LONGEST_AUTHOR and name.isprintable() else ""


def _dataset_digest(source: str) -> str:
    import hashlib

    return "d1:" + hashlib.sha256(source.encode()).hexdigest()[:32]


def _info(run: Any, experiment: str) -> RunInfo:
    info = run.info
    return RunInfo(
        run_id=info.run_id,
        experiment=experiment,
        name=info.run_name or "",
        status=info.status,
        started_at=_moment(info.start_time),
        ended_at=_moment(info.end_time) if info.end_time else None,
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        tags={key: value for key, value in run.data.tags.items() if key not in _HIDDEN_TAGS},
    )


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
