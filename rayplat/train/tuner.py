"""A short search with Ray Tune: a few trials on a sample, judged on the last month before the holdout.

The holdout is never read here. Trials reserve fractions of a CPU; the first one tries the given params as they are,
so tuning cannot do worse on its own yardstick.
"""

from __future__ import annotations

import contextlib
import io
import time
from dataclasses import dataclass, replace
from typing import Any

from rayplat.actors import give_way
from rayplat.errors import RayplatError, Unavailable
from rayplat.resources import require_resources
from rayplat.train.plan import TrainPlan
from rayplat.train.preparation import Prepared
from rayplat.train.tabular import NetParams

TRIAL_CPUS = 0.75
TRIAL_EPOCHS = 2


@dataclass(frozen=True)
class Tuned:
    """``params``: the best by AUC, with the epochs and batch size of the plan; ``trials``: a row for each."""

    params: NetParams
    trials: tuple[dict[str, float], ...]


def tune(plan: TrainPlan, prepared: Prepared) -> Tuned:
    """Run ``plan.trials`` trials. Raises `Unschedulable` within 10 s where not even one fits."""
    if plan.trials == 0 or len(prepared.valid) == 0 or len(prepared.trial) == 0:
        return Tuned(plan.params, ())
    from ray import tune as ray_tune
    from ray.tune.search.basic_variant import BasicVariantGenerator

    require_resources("tuning", [{"CPU": TRIAL_CPUS}])
    given = {key: getattr(plan.params, key) for key in _space()}
    search = BasicVariantGenerator(points_to_evaluate=[given], random_state=plan.seed)
    data = (plan.params, prepared.fitted, prepared.trial, prepared.valid, plan.seed)
    trainable = ray_tune.with_resources(ray_tune.with_parameters(_trial, data=data), {"cpu": TRIAL_CPUS})
    tuner = ray_tune.Tuner(
        trainable,
        param_space=_space(),
        tune_config=ray_tune.TuneConfig(
            metric="auc", mode="max", num_samples=plan.trials, search_alg=search, reuse_actors=True
        ),
        run_config=ray_tune.RunConfig(name="tune", storage_path=str(plan.folder.absolute()), verbose=0),
    )
    with contextlib.redirect_stdout(io.StringIO()):  # even at verbosity 0 it prints a box of its settings
        results = tuner.fit()
    if results.errors:
        cause = getattr(results.errors[0], "cause", None)
        raise cause if isinstance(cause, RayplatError) else Unavailable("tuning", str(results.errors[0])[-500:])
    found = [results[i] for i in range(len(results))]
    rows = tuple({**(r.config or {}), **_measured(r.metrics)} for r in found if "auc" in (r.metrics or {}))
    if len(rows) < plan.trials:  # Ray Tune takes Ctrl-C for "enough" and returns as if nothing had happened
        raise KeyboardInterrupt
    best = max(rows, key=lambda row: row["auc"])
    return Tuned(replace(plan.params, **{key: best[key] for key in given}), rows)


def _space() -> dict[str, Any]:
    from ray import tune as ray_tune

    return {
        "lr": ray_tune.loguniform(2e-3, 8e-3),
        "width": ray_tune.choice([48, 64, 96]),
        "dropout": ray_tune.uniform(0.0, 0.3),
        "weight_decay": ray_tune.loguniform(1e-3, 1e-1),
    }


def _trial(config: dict[str, Any], data: Any) -> None:
    """One trial, in its own process."""
    give_way()
    import torch
    from ray import tune as ray_tune

    params, fitted, trial, valid, seed = data
    torch.set_num_threads(1)
    ray_tune.report(run_trial(replace(params, **config, epochs=TRIAL_EPOCHS), fitted, trial, valid, seed))


def run_trial(params: NetParams, fitted: Any, trial: Any, valid: Any, seed: int) -> dict[str, float]:
    """``auc log_loss seconds`` of one net trained on ``trial`` and judged on ``valid``."""
    from rayplat import scoring
    from rayplat.train import loop
    from rayplat.train.tabular import build_net

    started = time.monotonic()
    net = build_net(fitted, params, seed)
    batch = max(1, min(params.batch_size // 2, len(trial)))
    schedule = loop.Schedule(steps=max(1, len(trial) // batch), batch=batch, seed=seed)
    loop.fit(net, trial, params, schedule, on_epoch=lambda _: None)
    scores = loop.scores(net, valid)
    return {
        "auc": scoring.auc(valid.y, scores),
        "log_loss": scoring.log_loss(valid.y, scores),
        "seconds": time.monotonic() - started,
    }


def _measured(metrics: dict[str, Any] | None) -> dict[str, float]:
    return {key: float((metrics or {})[key]) for key in ("auc", "log_loss", "seconds")}
