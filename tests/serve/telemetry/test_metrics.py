"""What a host counts: valid for Prometheus, right by variant and window, and all that the dashboard asks for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from rayplat.serve.telemetry.metrics import METRICS, HostMetrics, merged

DASHBOARD = Path(__file__).parents[3] / "cluster" / "grafana" / "rayplat-serving.json"
STATS: dict[str, Any] = {
    "replica": "r1",
    "version": 3,
    "generation": 5,
    "swaps": 2,
    "lag_s": 0.25,
    "load_s": 1.5,
    "failure": None,
    "rate_limited": 4,
    "queue": {
        "in_flight": 3,
        "waiting": 2,
        "waiting_rows": 7,
        "stuck": 0,
        "batch_rows": [5, 1, 0],
        "batch_rows_sum": 7,
        "batch_requests": [6, 0, 0],
        "batch_requests_sum": 6,
        "shed": {"latency": 9},
    },
    "release": {"shadows": {"challenger": {"dropped": 11}}},
    "log": {"recorded": 100, "dropped": 1, "waiting": 5},
}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def counted(replica: str = "r1") -> tuple[HostMetrics, str]:
    metrics = HostMetrics("m", "champion", Clock())
    for latency_ms in (1.0, 2.0, 400.0):
        metrics.answered("champion", 3, 200, latency_ms)
    metrics.answered("champion", 3, 500, 3.0)
    metrics.answered("champion", 3, 429, 0.01)
    metrics.answered("v7", 7, 422, 1.0)
    metrics.refused(401)
    return metrics, metrics.text({**STATS, "replica": replica})


def samples(text: str) -> dict[tuple[str, str], float]:
    """By name and the labels that differ."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            shown = {k: v for k, v in sample.labels.items() if k not in ("model", "alias", "replica")}
            found[sample.name, ",".join(f"{k}={v}" for k, v in sorted(shown.items()))] = sample.value
    return found


def test_everything_is_there_for_prometheus() -> None:
    found = samples(counted()[1])
    assert found["rayplat_serve_requests_total", "status=2xx,variant=champion,version=3"] == 3
    assert found["rayplat_serve_requests_total", "status=4xx,variant=v7,version=7"] == 1
    assert found["rayplat_serve_errors_total", "variant=champion,version=3"] == 1
    assert found["rayplat_serve_latency_seconds_count", "variant=champion,version=3"] == 4
    assert found["rayplat_serve_latency_seconds_sum", "variant=champion,version=3"] == pytest.approx(0.406)
    assert found["rayplat_serve_refused_total", "status=401"] == 1
    assert found["rayplat_serve_queue_length", ""] == 2
    assert found["rayplat_serve_batch_rows_bucket", "le=1.0"] == 5
    assert found["rayplat_serve_batch_rows_count", ""] == 6
    assert found["rayplat_serve_shed_total", "reason=latency"] == 9
    assert found["rayplat_serve_shadow_dropped_total", "variant=challenger"] == 11
    assert found["rayplat_serve_log_dropped_rows_total", ""] == 1
    assert found["rayplat_serve_alias_lag_seconds", ""] == 0.25
    assert found["rayplat_serve_alias_swaps_total", ""] == 2
    assert found["rayplat_serve_rate_limited_total", ""] == 4
    names = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name, _ in found}
    assert names == METRICS


def test_buckets_grow_and_hold_every_answer() -> None:
    found = samples(counted()[1])
    buckets = [
        (float(k.split("le=")[1].split(",")[0]), v)
        for (name, k), v in found.items()
        if name == "rayplat_serve_latency_seconds_bucket" and "champion" in k
    ]
    assert buckets == sorted(buckets)
    assert [v for _, v in buckets] == sorted(v for _, v in buckets)
    assert len(buckets) == 27
    assert buckets[-1] == (float("inf"), 4)
    assert next(v for le, v in buckets if le >= 0.1) == 3


def test_one_page_of_many_hosts() -> None:
    page = merged([counted("r1")[1], counted("r2")[1], ""])
    families = list(text_string_to_metric_families(page))
    assert len({f.name for f in families}) == len(families)
    replicas = {s.labels["replica"] for f in families for s in f.samples}
    assert replicas == {"r1", "r2"}
    assert page.count("# TYPE rayplat_serve_requests_total counter") == 1
    assert merged([]) == ""


def test_names_that_would_break_the_format_are_escaped() -> None:
    metrics = HostMetrics('a"b\\c\nd', "champion", Clock())
    metrics.answered('x"y', 1, 200, 1.0)
    families = list(text_string_to_metric_families(metrics.text(STATS)))
    assert families[0].samples[0].labels["model"] == 'a"b\\c\nd'


def test_variants_in_a_window() -> None:
    clock = Clock()
    metrics = HostMetrics("m", "champion", clock)
    for _ in range(100):
        metrics.answered("champion", 3, 500, 100.0)
    for second in range(1, 200):
        clock.now = float(second)
        metrics.answered("champion", 3, 200, 1.0)
        found = metrics.variants()["champion"]
    assert found["errors"] == 0
    assert 60 <= found["window_s"] <= 66
    assert found["requests"] == pytest.approx(found["window_s"], abs=1)
    assert found["p50_ms"] == found["p99_ms"] == pytest.approx(1.0, rel=0.2)
    assert sum(found["latencies"]) == found["requests"]
    metrics.answered("champion", 4, 200, 8.0)
    assert metrics.variants()["champion"]["version"] == 4
    assert metrics.variants()["champion"]["requests"] == 1
    assert metrics.statuses() == {"200": 200, "500": 100}


def test_a_thousand_versions_are_no_leak() -> None:
    clock = Clock()
    metrics = HostMetrics("m", "champion", clock)
    for number in range(1000):
        clock.now += 10
        metrics.answered("champion", number, 200, 1.0)
        metrics.answered("steady", 1, 200, 1.0)
    assert len(metrics._series) == 64
    assert metrics.variants()["champion"]["version"] == 999
    assert metrics._series["steady", 1].statuses == {200: 1000}


def test_the_dashboard_asks_only_for_what_there_is_and_for_all_of_it() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    asked = set()
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            assert target["expr"].count("(") == target["expr"].count(")")
            asked |= set(re.findall(r"rayplat_serve_\w+", target["expr"]))
    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in asked} == METRICS
