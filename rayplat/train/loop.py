"""The optimisation loop, the same for a tuning trial and for each worker of a distributed training.

Knows torch and encoded rows; no Ray, no files. The caller says how many steps an epoch has, because every worker
of one training must take the same number.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rayplat.train.tabular import NetParams, Rows

if TYPE_CHECKING:
    import torch

UNKNOWN_SHARE = 0.01
_CLIP = 1.0


@dataclass(frozen=True)
class Epoch:
    """``loss``: mean binary cross-entropy of the steps, in nats; ``rows``: seen by this worker."""

    number: int
    loss: float
    rows: int
    seconds: float


@dataclass(frozen=True)
class Schedule:
    """``steps`` per epoch and ``batch`` rows per step, of one worker."""

    steps: int
    batch: int
    seed: int


def fit(
    net: torch.nn.Module, rows: Rows, params: NetParams, schedule: Schedule, on_epoch: Callable[[Epoch], None]
) -> None:
    """Train ``net`` in place with AdamW and a one-cycle learning rate; `Epoch` is reported after each one."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

    torch.manual_seed(schedule.seed)
    device = next(net.parameters()).device
    x, c, y = (torch.tensor(a, device=device) for a in (rows.x, rows.c, rows.y))  # Ray's arrays are read-only
    optimizer = torch.optim.AdamW(_groups(net, params), lr=params.lr)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, params.lr, total_steps=params.epochs * schedule.steps, pct_start=0.15
    )
    for number in range(params.epochs):
        started, losses = time.monotonic(), torch.zeros((), device=device)
        net.train()
        order = torch.randperm(len(y), device=device)
        for step in range(schedule.steps):
            batch = order[step * schedule.batch : (step + 1) * schedule.batch]
            known = torch.rand((len(batch), c.shape[1]), device=device) >= UNKNOWN_SHARE
            loss = cross_entropy(net(x[batch], c[batch] * known), y[batch])  # code 0 learns from words left out
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(net.parameters(), _CLIP)
            optimizer.step()
            cycle.step()
            losses += loss.detach()
        seen = min(schedule.steps * schedule.batch, len(y))
        on_epoch(Epoch(number, float(losses) / schedule.steps, seen, time.monotonic() - started))


def scores(net: torch.nn.Module, rows: Rows, batch: int = 8192) -> npt.NDArray[np.float32]:
    """Probabilities [n] float32 of ``rows``."""
    import torch

    net.eval()
    with torch.inference_mode():
        parts = [
            torch.sigmoid(net(torch.tensor(rows.x[i : i + batch]), torch.tensor(rows.c[i : i + batch])))
            for i in range(0, len(rows), batch)
        ]
    return torch.cat(parts).numpy() if parts else np.empty(0, dtype=np.float32)


def _groups(net: torch.nn.Module, params: NetParams) -> list[dict[str, Any]]:
    """Weight decay for matrices only: biases have nothing to overfit with."""
    matrices = [p for p in net.parameters() if p.ndim > 1]
    vectors = [p for p in net.parameters() if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": params.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
