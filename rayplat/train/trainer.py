"""One training from pinned rows to a model bundle, as one tracked run.

`train` reads top to bottom what happens: prepare, tune, fit on several workers (Ray Train, DDP over gloo), export,
evaluate on the holdout, track. Rows go from the table's files to the workers through Ray Data; the driver sees a
sample, the weights and the figures. Knows nothing of the registry.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayplat.artifacts.bundle import LoadedModel, write_bundle
from rayplat.errors import PartFailed, RayplatError
from rayplat.train import evaluation, plots, tuner
from rayplat.train.plan import TrainPlan
from rayplat.train.preparation import Prepared, prepare
from rayplat.train.scaling import require_resources
from rayplat.train.tabular import NetParams, Rows, build_net, export
from rayplat.types import ModelSpec

if TYPE_CHECKING:
    from pyarrow.compute import Expression
    from ray.data import Dataset

    from rayplat.data.scan import Scan
    from rayplat.data.tables import Tables
    from rayplat.tracking import Run, Tracking

log = logging.getLogger(__name__)

READ_CPUS = 0.2
BLOCK_ROWS = 16_384
_STATE = "weights.pt"


@dataclass(frozen=True)
class TrainResult:
    """``folder`` holds the bundle; ``metrics`` are those of the holdout; ``seconds`` by phase."""

    run_id: str
    folder: Path
    metrics: dict[str, float]
    spec: ModelSpec
    params: NetParams
    seconds: dict[str, float] = field(default_factory=dict)


def train(plan: TrainPlan, tables: Tables, tracking: Tracking) -> TrainResult:
    """Tune, train, evaluate and track one model. Blocks.

    Raises `Unschedulable` within 10 s of a phase whose workers do not fit, `InvalidInput` or `SchemaMismatch` for
    data that cannot be learned from, `PartFailed` where the workers failed. The run then ends FAILED.
    """
    clock = _Clock()
    name = f"{plan.model}/{plan.training_set.name}"
    with tracking.start_run(plan.experiment, name, _tags(plan)) as run:
        require_resources("training", [*plan.bundles, {"CPU": READ_CPUS}])
        run.log_tables([plan.training_set.data], "training")
        run.log_tables(plan.training_set.pins, "source")
        plan = replace(plan, folder=plan.folder / run.run_id)
        with clock.phase("prepare"):
            prepared = _prepare(plan, tables)
        with clock.phase("tune"):
            tuned = tuner.tune(plan, prepared)
        run.log_params(_params(plan, tuned.params, prepared))
        if tuned.trials:
            run.log_table(tuned.trials, "tuning/trials.json")
        with clock.phase("fit"):
            weights = _fit(plan, tables, prepared, tuned.params, run)
        with clock.phase("export"):
            model = _bundle(plan, prepared, tuned.params, weights)
        with clock.phase("evaluate"):
            holdout = evaluation.score(model, tables, plan.training_set, plan.holdout_from)
            metrics = evaluation.metrics(holdout)
        with clock.phase("track"):
            run.log_metrics({f"holdout_{key}": value for key, value in metrics.items()})
            plots.write(holdout, plan.folder / "plots")
            run.log_files(plan.folder / "plots", "plots")
            run.log_model(plan.folder / "bundle")
        run.log_metrics({f"seconds_{phase}": seconds for phase, seconds in clock.seconds.items()})
        if evaluation.leakage_suspected(metrics["auc"]):
            log.warning("AUC above the plausible bound", extra={"run_id": run.run_id, "auc": metrics["auc"]})
            run.set_tags({"rayplat.leakage_suspected": "true"})
    return TrainResult(run.run_id, plan.folder / "bundle", metrics, model.spec, tuned.params, clock.seconds)


def _prepare(plan: TrainPlan, tables: Tables) -> Prepared:
    import ray

    require_resources("preparing the training", [{"CPU": tuner.TRIAL_CPUS}])
    task: Any = ray.remote(num_cpus=tuner.TRIAL_CPUS, max_retries=1)(prepare)
    try:
        prepared: Prepared = ray.get(task.remote(tables, plan))
    except ray.exceptions.RayTaskError as e:
        raise (e.cause if isinstance(e.cause, RayplatError) else PartFailed("preparing the training", str(e))) from None
    return prepared


def _fit(plan: TrainPlan, tables: Tables, prepared: Prepared, params: NetParams, run: Run) -> dict[str, Any]:
    """The weights after distributed training; the metrics of each epoch go into the run."""
    import torch
    from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
    from ray.train.torch import TorchTrainer

    require_resources("training", [*plan.bundles, {"CPU": READ_CPUS}])
    config = {"fitted": prepared.fitted, "params": params, "label": plan.training_set.label, "seed": plan.seed}
    trainer = TorchTrainer(
        train_worker,
        train_loop_config=config,
        scaling_config=ScalingConfig(
            num_workers=plan.workers, resources_per_worker={"CPU": plan.cpus_per_worker}, placement_strategy="PACK"
        ),
        run_config=RunConfig(
            name="train", storage_path=str(plan.folder.absolute()), failure_config=FailureConfig(max_failures=1)
        ),
        datasets={"train": _stream(plan, tables)},
    )
    try:
        with _interruptible():
            result = trainer.fit()
    except WorkerGroupError as e:
        ours = [error for error in e.worker_failures.values() if isinstance(error, RayplatError)]
        raise (ours[0] if ours else PartFailed("training", str(e)[-1000:])) from e
    for epoch in result.metrics["epochs"]:
        run.log_metrics({key: value for key, value in epoch.items() if key != "number"}, step=epoch["number"])
    with result.checkpoint.as_directory() as folder:
        weights: dict[str, Any] = torch.load(Path(folder) / _STATE, weights_only=True)
    return weights


def _stream(plan: TrainPlan, tables: Tables) -> Dataset:
    """The training rows, read file by file in tasks of `READ_CPUS`. Ray Data's own reads reserve a whole CPU: beside
    two workers and a model host on two CPUs they would wait for ever."""
    import ray.data

    parts = tables.scan(plan.training_set.data).prune(plan.training_rows()).split(plan.workers * 4)
    source = ray.data.from_items([{"part": i} for i in range(len(parts))], override_num_blocks=max(1, len(parts)))
    source.context.enable_progress_bars = False
    reader = PartReader(parts, plan.columns, plan.training_rows())
    return source.map_batches(reader.read, batch_size=None, num_cpus=READ_CPUS, zero_copy_batch=True)


class PartReader:
    """A Ray Data function from numbers of parts to their rows, in blocks small enough to be dealt out evenly."""

    def __init__(self, parts: Sequence[Scan], columns: Sequence[str], where: Expression) -> None:
        self._parts, self._columns, self._where = parts, columns, where

    def read(self, batch: dict[str, Any]) -> Iterator[Any]:
        for part in batch["part"]:
            for table in self._parts[int(part)].batches(self._columns, self._where):
                for start in range(0, table.num_rows, BLOCK_ROWS):
                    yield table.slice(start, BLOCK_ROWS)


def train_worker(config: dict[str, Any]) -> None:
    """What each worker runs: collect its shard once, then train in step with the others."""
    import ray.train
    import torch
    from ray.train import torch as ray_torch

    from rayplat.train import loop

    torch.set_num_threads(1)
    context, params = ray.train.get_context(), config["params"]
    rows = _collect(ray.train.get_dataset_shard("train"), config)
    net = ray_torch.prepare_model(build_net(config["fitted"], params, config["seed"]))
    batch = max(1, min(params.batch_size // context.get_world_size(), _smallest(len(rows))))
    schedule = loop.Schedule(_smallest(len(rows) // batch), batch, config["seed"] * 1000 + context.get_world_rank())
    epochs: list[dict[str, float]] = []

    def on_epoch(epoch: loop.Epoch) -> None:
        loss, seen = _mean(epoch.loss), epoch.rows * context.get_world_size()
        epochs.append({"number": epoch.number, "train_loss": loss, "rows_per_s": seen / max(epoch.seconds, 1e-9)})

    loop.fit(net, rows, params, schedule, on_epoch)
    _report(net, {"epochs": epochs, "rows": float(len(rows))}, context.get_world_rank() == 0)


def _collect(shard: Any, config: dict[str, Any]) -> Rows:
    import numpy as np

    from rayplat.train.tabular import encode

    label, parts = config["label"], []
    for table in shard.iter_batches(batch_size=None, batch_format="pyarrow"):
        parts.append(encode(table, config["fitted"], label))
    if not parts:
        raise PartFailed("training", "a worker received no rows: use fewer workers or more rows")
    return Rows(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("x", "c", "y")))


def _report(net: Any, metrics: dict[str, Any], leader: bool) -> None:
    """The end of a worker: the leader's weights as checkpoint, all workers in one report."""
    import tempfile

    import ray.train
    import torch

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None
        if leader:
            state = getattr(net, "module", net).state_dict()
            torch.save({key: value.cpu() for key, value in state.items()}, Path(folder) / _STATE)
            checkpoint = ray.train.Checkpoint.from_directory(folder)
        ray.train.report(metrics, checkpoint=checkpoint)


def _smallest(value: int) -> int:
    return int(_reduce(float(value), "MIN"))


def _mean(value: float) -> float:
    return _reduce(value, "AVG")


def _reduce(value: float, how: str) -> float:
    """A number over all workers; gloo has no average of its own."""
    import torch
    import torch.distributed as dist

    if not dist.is_initialized():
        return value
    tensor = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(tensor, op=dist.ReduceOp.MIN if how == "MIN" else dist.ReduceOp.SUM)
    return float(tensor) / (dist.get_world_size() if how == "AVG" else 1)


def _bundle(plan: TrainPlan, prepared: Prepared, params: NetParams, weights: dict[str, Any]) -> LoadedModel:
    net = build_net(prepared.fitted, params, plan.seed)
    net.load_state_dict(weights)
    encoding = prepared.fitted.encoding
    tracked = {"training_set": plan.training_set.digest, "holdout_from": plan.holdout_from.isoformat(), **asdict(params)}
    spec = ModelSpec(plan.model, plan.training_set.join_key, encoding.features, dict(plan.views), params=tracked)
    return write_bundle(plan.folder / "bundle", export(net, prepared.fitted), spec, encoding, prepared.example)


def _tags(plan: TrainPlan) -> dict[str, str]:
    data = plan.training_set.data
    return {
        "rayplat.model": plan.model,
        "rayplat.training_set": plan.training_set.name,
        "rayplat.training_set.digest": plan.training_set.digest,
        "rayplat.data": f"{data.table}@{data.version}",
        "rayplat.pins": ", ".join(f"{pin.table}@{pin.version}" for pin in plan.training_set.pins),
    }


def _params(plan: TrainPlan, params: NetParams, prepared: Prepared) -> dict[str, Any]:
    fixed = {
        "features": len(plan.features),
        "excluded": ", ".join(plan.exclude),
        "training_rows": prepared.rows,
        "holdout_from": plan.holdout_from.isoformat(),
        "workers": plan.workers,
        "cpus_per_worker": plan.cpus_per_worker,
        "trials": plan.trials,
        "seed": plan.seed,
    }
    return {**asdict(params), **fixed}


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C as KeyboardInterrupt. Ray Train installs a SIGINT handler of its own, exits with code 0 from it, and
    leaves it installed after the training: later interrupts would then end the program without a word."""
    import signal
    import threading

    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT) if main else None
    try:
        yield
    except SystemExit as e:
        raise KeyboardInterrupt from e
    finally:
        if main:
            signal.signal(signal.SIGINT, before)


class _Clock:
    """Wall seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        log.info("training: %s", name)
        try:
            yield
        finally:
            self.seconds[name] = round(time.monotonic() - started, 3)
