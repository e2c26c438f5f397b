"""What does not fit is said, at once, with who holds the rest."""

from __future__ import annotations

import time

import pytest

from rayplat.errors import Unschedulable
from rayplat.resources import explain, require_resources


def test_the_refusal_names_demand_free_and_holders():
    text = explain({"CPU": 1.5}, {"CPU": 2.0}, {"CPU": 0.5}, {"host": 1.0, "other": 0.5})
    assert "needs 1.5 CPU" in text
    assert "0.5 of 2 CPU are free" in text
    assert "host (1 CPU), other (0.5 CPU)" in text


def test_a_cluster_that_is_too_small_altogether_is_told_so():
    assert "not enough GPU at all" in explain({"CPU": 1.0, "GPU": 1.0}, {"CPU": 2.0}, {"CPU": 2.0}, {})


@pytest.mark.ray
def test_what_fits_is_released_again(ray_cluster):
    for _ in range(3):
        require_resources("training", [{"CPU": 0.75}, {"CPU": 0.75}])


@pytest.mark.ray
def test_a_starved_training_is_refused_within_ten_seconds(ray_cluster):
    import ray

    class Hog:
        def ready(self) -> bool:
            return True

    hog = ray.remote(num_cpus=1.5)(Hog).options(name="hog").remote()
    ray.get(hog.ready.remote())
    started = time.monotonic()
    with pytest.raises(Unschedulable, match=r"needs 1\.5 CPU.*hog \(1\.5 CPU\)"):
        require_resources("training", [{"CPU": 0.75}, {"CPU": 0.75}], timeout_s=3)
    assert time.monotonic() - started < 10
    ray.kill(hog)
