"""A real model small enough for a test: its bundle in the real store, its features in the real online store."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rayplat.artifacts.store import ArtifactStore
from rayplat.data.features import Entity, FeatureView, Field
from rayplat.data.online import catalog, open_store
from rayplat.data.online.store import NO_CREATED, Batch
from rayplat.data.online.values import encode
from rayplat.settings import Settings
from rayplat.types import FeatureSpec, ModelSpec

MODEL = "tiny"
DEPARTURE = datetime(2013, 11, 5, 14, 0, tzinfo=UTC)
VIEW = FeatureView(
    name="schedule",
    entity=Entity("flight", "flight"),
    source="flights",
    event_time="scheduled_at",
    fields=(Field("distance", "double"), Field("carrier", "string")),
    ttl=timedelta(hours=2),
)
FEATURES = (FeatureSpec("distance", "numeric", nullable=False), FeatureSpec("carrier", "categorical"))


def put_bundle(settings: Settings, answer: float) -> str:
    """Store a model that gives ``answer`` + distance / 1000 for the carrier UA, a tenth more for others. Its digest."""
    import torch

    from rayplat.artifacts.bundle import write_bundle
    from rayplat.artifacts.encoding import Encoding

    class Tiny(torch.nn.Module):
        def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
            return x.sum(1) * 0.001 + c.sum(1) * -0.1 + (answer + 0.1)

    batch = torch.export.Dim("batch")
    example = (torch.zeros(2, 1), torch.zeros(2, 1, dtype=torch.int64))
    exported = torch.export.export(Tiny(), example, dynamic_shapes=({0: batch}, {0: batch}))
    spec = ModelSpec(MODEL, "flight", FEATURES, {VIEW.name: VIEW.digest()})
    with tempfile.TemporaryDirectory() as folder:
        write_bundle(
            Path(folder), exported, spec, Encoding(FEATURES, (("UA",),)), {"distance": [1.0], "carrier": ["UA"]}
        )
        return ArtifactStore.of(settings).put_tree(Path(folder), "model").digest


def put_features(settings: Settings) -> None:
    """Flights F0 to F99 (distance 0 to 99, carrier UA) known from `DEPARTURE`, and F-bare without a distance."""
    store = open_store(settings.online_store)
    catalog.declare(store, catalog.Definition.of(VIEW))
    moment = int(DEPARTURE.timestamp()) * 1_000_000
    values = {f"F{i}": [float(i), "UA"] for i in range(100)} | {"F-bare": [None, "UA"]}
    store.write(VIEW.id, Batch((key.encode(), moment, NO_CREATED, encode(found)) for key, found in values.items()))
