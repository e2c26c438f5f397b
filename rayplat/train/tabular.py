"""A small network for tabular rows, and what it must learn from the training rows before the first step.

Numbers become piecewise-linear codes between the quantiles of the training rows (Gorishniy et al. 2022, "On
Embeddings for Numerical Features in Tabular Deep Learning", §3.1) plus a flag for missing; strings become
embeddings. All of it happens inside the module, so a server only looks words up. Knows no Ray and no table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayplat.artifacts.encoding import Codes, Encoding, Floats
from rayplat.errors import SchemaMismatch
from rayplat.types import FeatureSpec

if TYPE_CHECKING:
    import torch

BINS = 8
MIN_COUNT = 20
MAX_WORDS = 4096


@dataclass(frozen=True)
class NetParams:
    """What may be tuned. ``batch_size`` counts the rows of all workers together."""

    lr: float = 4e-3
    width: int = 64
    dropout: float = 0.1
    weight_decay: float = 1e-2
    embedding: int = 8
    epochs: int = 2
    batch_size: int = 2048


DEFAULTS = NetParams()


@dataclass(frozen=True)
class Fitted:
    """Learned from training rows only. ``edges`` [d, BINS + 1] float64: quantiles per numeric feature."""

    encoding: Encoding
    edges: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rows:
    """Encoded rows: ``x`` [n, d] float32 with NaN, ``c`` [n, c] int64, ``y`` [n] float32 of 0 and 1."""

    x: Floats
    c: Codes
    y: Floats

    def __len__(self) -> int:
        return len(self.y)

    def take(self, index: Any) -> Rows:
        return Rows(self.x[index], self.c[index], self.y[index])


def feature_specs(schema: pa.Schema, names: Sequence[str], required: Sequence[str] = ()) -> tuple[FeatureSpec, ...]:
    """How the columns enter the model: numbers and booleans as numeric, strings as categorical.

    Raises `SchemaMismatch` for an absent column, another type, or a ``required`` name that is no feature.
    """
    specs = []
    for name in names:
        if name not in schema.names:
            raise SchemaMismatch(name, f"the training set has no such column, only {schema.names}")
        dtype = schema.field(name).type
        if pa.types.is_dictionary(dtype):
            dtype = dtype.value_type
        if pa.types.is_floating(dtype) or pa.types.is_integer(dtype) or pa.types.is_boolean(dtype):
            kind = "numeric"
        elif pa.types.is_string(dtype) or pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype):
            kind = "categorical"
        else:
            raise SchemaMismatch(name, f"{dtype} is neither a number nor a string; leave it out or convert it")
        specs.append(FeatureSpec(name, kind, nullable=name not in required))
    if unknown := set(required) - set(names):
        raise SchemaMismatch("required", f"{sorted(unknown)} are no features of this model")
    return tuple(specs)


def fit(table: pa.Table, features: tuple[FeatureSpec, ...]) -> Fitted:
    """Vocabularies and quantiles of ``table``, which must hold training rows only."""
    words = tuple(_vocabulary(table[f.name]) for f in features if f.kind == "categorical")
    edges = [_edges(table[f.name]) for f in features if f.kind == "numeric"]
    return Fitted(Encoding(features, words), np.array(edges, dtype=np.float64).reshape(-1, BINS + 1))


def encode(table: pa.Table, fitted: Fitted, label: str) -> Rows:
    """Rows of ``table``; its label column must hold no null."""
    x, c = fitted.encoding.encode_table(table)
    return Rows(x, c, table[label].cast(pa.float32()).to_numpy())


def build_net(fitted: Fitted, params: NetParams, seed: int) -> torch.nn.Module:
    """An untrained network: ``(x [n, d] float32, c [n, c] int64) -> logit [n] float32``."""
    import torch
    from torch import nn

    class Tabular(nn.Module):
        edges: torch.Tensor
        inverse_widths: torch.Tensor
        offsets: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            low, width = fitted.edges[:, :-1], np.diff(fitted.edges, axis=1)
            inverse = np.divide(1.0, width, out=np.zeros_like(width), where=width > 0)
            sizes = fitted.encoding.sizes
            self.register_buffer("edges", torch.tensor(low, dtype=torch.float32))
            self.register_buffer("inverse_widths", torch.tensor(inverse, dtype=torch.float32))
            self.register_buffer("offsets", torch.tensor(np.cumsum((0, *sizes))[:-1], dtype=torch.int64))
            self.embedding = nn.Embedding(max(1, sum(sizes)), params.embedding)
            nn.init.normal_(self.embedding.weight, std=0.05)
            inputs = low.shape[0] * (BINS + 1) + len(sizes) * params.embedding
            self.layers = nn.Sequential(
                *(nn.Linear(inputs, params.width), nn.ReLU(), nn.Dropout(params.dropout)),
                *(nn.Linear(params.width, params.width // 2), nn.ReLU(), nn.Dropout(params.dropout)),
                nn.Linear(params.width // 2, 1),
            )

        def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
            steps = ((x.unsqueeze(-1) - self.edges) * self.inverse_widths).clamp(0.0, 1.0).nan_to_num(0.0)
            missing = x.isnan() * 1.0
            words = self.embedding(c + self.offsets)
            logits: torch.Tensor = self.layers(torch.cat([steps.flatten(1), missing, words.flatten(1)], 1))
            return logits.squeeze(1)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Tabular()


def export(net: torch.nn.Module, fitted: Fitted) -> Any:
    """``torch.export`` of the net in evaluation mode with a sigmoid behind it, for any number of rows."""
    import torch
    from torch import nn

    class Probability(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net.cpu().eval()

        def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
            return torch.sigmoid(self.net(x, c))

    for name, module in net.named_modules():
        for child, layer in module.named_children():
            if isinstance(layer, nn.Dropout):  # it does nothing in evaluation, and each operator costs a server time
                setattr(net.get_submodule(name), child, nn.Identity())
    batch = torch.export.Dim("batch")
    example = (
        torch.zeros(2, len(fitted.encoding.numeric)),
        torch.zeros(2, len(fitted.encoding.categorical), dtype=torch.int64),
    )
    return torch.export.export(Probability().eval(), example, dynamic_shapes=({0: batch}, {0: batch}))


def _vocabulary(column: pa.ChunkedArray) -> tuple[str, ...]:
    """The most frequent words, sorted; rarer than `MIN_COUNT` they share code 0 with the unknown ones."""
    counts = [(e["counts"], e["values"]) for e in pc.value_counts(column.cast(pa.string())).to_pylist()]
    frequent = sorted(((n, w) for n, w in counts if w is not None and n >= MIN_COUNT), key=lambda e: (-e[0], e[1]))
    return tuple(sorted(word for _, word in frequent[:MAX_WORDS]))


def _edges(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    values = column.cast(pa.float64()).drop_null().to_numpy()
    values = values[np.isfinite(values)]
    if not len(values):
        return np.zeros(BINS + 1)
    inner = np.linspace(0, 1, BINS + 1)
    inner[0], inner[-1] = 0.001, 0.999  # the outermost values are often errors of measurement
    return np.asarray(np.quantile(values, inner), dtype=np.float64)
