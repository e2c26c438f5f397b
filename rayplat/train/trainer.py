"""One training from pinned rows to a model bundle, as one tracked run.

`train` reads top to bottom what happens: prepare, tune, fit on several workers (Ray Train, DDP over gloo), export,
evaluate on the holdout, track. Rows go from the table's files to the workers through Ray Data; the driver sees a
sample, the weights and the figures. Knows nothing of the registry.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayplat.artifacts.bundle import LoadedModel, write_bundle
from rayplat.errors import PartFailed, RayplatError
from rayplat.resources import require_resources
from rayplat.tracking import AUTHOR_TAG
from rayplat.train import evaluation, plots, tuner, worker
from rayplat.train.plan import TrainPlan
from rayplat.train.preparation import Prepared, prepare
from rayplat.train.tabular import NetParams, build_net, export
from rayplat.types import ModelSpec

if TYPE_CHECKING:
    from ray.data import Dataset

    from rayplat.data.tables import Tables
    from rayplat.tracking import Run, Tracking

log = logging.getLogger(__name__)

READ_CPUS = 0.2


@dataclass(frozen=True)
class TrainResult:
    """``folder`` holds the bundle, ``plots`` the pictures of the holdout; ``metrics`` are those of the holdout;
    ``seconds`` by phase."""

    run_id: str
    folder: Path
    metrics: dict[str, float]
    spec: ModelSpec
    params: NetParams
    seconds: dict[str, float]
    plots: Path


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
    folder = plan.folder / "bundle"
    return TrainResult(run.run_id, folder, metrics, model.spec, tuned.params, clock.seconds, plan.folder / "plots")


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
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    require_resources("training", [*plan.bundles, {"CPU": READ_CPUS}])
    config = {"fitted": prepared.fitted, "params": params, "label": plan.training_set.label, "seed": plan.seed}
    trainer = TorchTrainer(
        worker.run,
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
    except TrainingFailedError as e:
        ours = [error for error in getattr(e, "worker_failures", {}).values() if isinstance(error, RayplatError)]
        raise (ours[0] if ours else PartFailed("training", str(e)[-1000:])) from e
    if result.metrics is None or result.checkpoint is None:
        raise PartFailed("training", "the workers ended without reporting weights; see the Ray Train logs")
    for epoch in result.metrics["epochs"]:
        run.log_metrics({key: value for key, value in epoch.items() if key != "number"}, step=epoch["number"])
    with result.checkpoint.as_directory() as folder:
        weights: dict[str, Any] = torch.load(Path(folder) / worker.WEIGHTS, weights_only=True)
    return weights


def _stream(plan: TrainPlan, tables: Tables) -> Dataset:
    """The training rows, read file by file in tasks of `READ_CPUS`. Ray Data's own reads reserve a whole CPU: beside
    two workers and a model host on two CPUs they would wait for ever."""
    import ray.data

    parts = tables.scan(plan.training_set.data).prune(plan.training_rows()).split(plan.workers * 4)
    source = ray.data.from_items([{"part": i} for i in range(len(parts))], override_num_blocks=max(1, len(parts)))
    source.context.enable_progress_bars = False
    reader = worker.PartReader(parts, plan.columns, plan.training_rows())
    return source.map_batches(reader.read, batch_size=None, num_cpus=READ_CPUS, zero_copy_batch=True)


def _bundle(plan: TrainPlan, prepared: Prepared, params: NetParams, weights: dict[str, Any]) -> LoadedModel:
    net = build_net(prepared.fitted, params, plan.seed)
    net.load_state_dict(weights)
    encoding = prepared.fitted.encoding
    tracked = {
        "training_set": plan.training_set.digest,
        "holdout_from": plan.holdout_from.isoformat(),
        **asdict(params),
    }
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
        **({AUTHOR_TAG: plan.author} if plan.author else {}),
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
