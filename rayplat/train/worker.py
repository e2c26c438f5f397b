"""What runs on the workers of a distributed training: reading parts of a table, and training in step.

Started by `rayplat.train.trainer` through Ray Data and Ray Train. Torch is imported in the workers only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rayplat.actors import give_way
from rayplat.errors import PartFailed
from rayplat.train import loop
from rayplat.train.tabular import Rows, build_net, encode

if TYPE_CHECKING:
    from pyarrow.compute import Expression

    from rayplat.data.tables.scan import Scan

BLOCK_ROWS = 16_384
WEIGHTS = "weights.pt"


class PartReader:
    """A Ray Data function from numbers of parts to their rows, in blocks small enough to be dealt out evenly."""

    def __init__(self, parts: Sequence[Scan], columns: Sequence[str], where: Expression) -> None:
        self._parts, self._columns, self._where = parts, columns, where

    def read(self, batch: dict[str, Any]) -> Iterator[Any]:
        give_way()
        for part in batch["part"]:
            for table in self._parts[int(part)].batches(self._columns, self._where):
                for start in range(0, table.num_rows, BLOCK_ROWS):
                    yield table.slice(start, BLOCK_ROWS)


def run(config: dict[str, Any]) -> None:
    """The function of each worker: collect its shard once, then train in step with the others."""
    give_way()
    import ray.train
    import torch
    from ray.train import torch as ray_torch

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
    label, parts = config["label"], []
    for table in shard.iter_batches(batch_size=None, batch_format="pyarrow"):
        parts.append(encode(table, config["fitted"], label))
    if not parts:
        raise PartFailed("training", "a worker received no rows: use fewer workers or more rows")
    return Rows(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("x", "c", "y")))


def _report(net: Any, metrics: dict[str, Any], leader: bool) -> None:
    """The end of a worker: the leader's weights as checkpoint, all workers in one report."""
    import ray.train
    import torch

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None
        if leader:
            state = getattr(net, "module", net).state_dict()
            torch.save({key: value.cpu() for key, value in state.items()}, Path(folder) / WEIGHTS)
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
