"""What runs behind what on one machine."""

from __future__ import annotations

import os

import pytest

from rayplat import actors


def _niceness(behind: bool) -> int:
    if behind:
        actors.give_way()
        actors.give_way()
    return os.nice(0)


def test_nothing_gives_way_outside_a_task() -> None:
    before = os.nice(0)
    actors.give_way()
    assert os.nice(0) == before


@pytest.mark.ray
def test_a_task_gives_way_and_others_do_not(ray_cluster: str) -> None:
    import ray

    task = ray.remote(num_cpus=0.1, max_calls=1)(_niceness)
    assert ray.get(task.remote(False)) == os.nice(0)
    assert ray.get(task.remote(True)) == 15
