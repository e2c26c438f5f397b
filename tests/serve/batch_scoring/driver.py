"""A driver of its own, to be killed: ``python -m tests.serve.batch_scoring.driver <home> <address> <s>``."""

from __future__ import annotations

import sys
from pathlib import Path

import ray

from rayplat import actors
from rayplat import settings as settings_module
from rayplat.registry.local import LocalRegistry
from rayplat.registry.record.database import Record
from rayplat.serve.batch_scoring import ScoreRequest, Workers, score
from tests.serve.batch_scoring.fakes import TwiceLoader, backends

REQUEST = ScoreRequest("numbers", "twice", "scores", keys=("id",), part_rows=50, batch_rows=25)
WORKERS = Workers(1, cpus=0.5)


def main(home: Path, address: str, pause_s: float) -> None:
    ray.init(address=address, namespace=actors.NAMESPACE, log_to_driver=False)  # the token is in the environment
    settings = settings_module.load(home, environ={})
    registry = LocalRegistry(Record(f"sqlite:///{home / 'registry.db'}"))
    score(backends(settings, registry, TwiceLoader(pause_s)), REQUEST, WORKERS)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
