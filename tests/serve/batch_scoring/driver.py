"""A driver of its own for a slow job, to be killed: ``python -m tests.serve.batch_scoring.driver <home> <address>``."""

from __future__ import annotations

import sys
from pathlib import Path

from rayplat import settings as settings_module
from rayplat.platform import ray_node
from rayplat.registry.local import LocalRegistry
from rayplat.registry.record.database import Record
from rayplat.serve.batch_scoring import ScoreRequest, Workers, score
from tests.serve.batch_scoring.fakes import TwiceLoader, backends

REQUEST = ScoreRequest("numbers", "twice", "scores", keys=("id",), part_rows=50, batch_rows=25)
WORKERS = Workers(1, cpus=0.5)


def main(home: Path, ray_home: Path, address: str, pause_s: float) -> None:
    ray_node.connect(ray_home, address)
    settings = settings_module.load(home, environ={})
    registry = LocalRegistry(Record(f"sqlite:///{home / 'registry.db'}"))
    score(backends(settings, registry, TwiceLoader(pause_s)), REQUEST, WORKERS)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], float(sys.argv[4]))
