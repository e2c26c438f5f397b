"""What an `EndpointSpec` may say, field by field, wherever it came from. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from rayplat.errors import InvalidInput, InvalidName
from rayplat.registry import documents
from rayplat.types import EndpointSpec, check_alias, check_name

PLACEMENTS = ("dedicated", "pooled")
DURABILITIES = ("memory", "spool")
_VERSION = re.compile(r"v[1-9][0-9]{0,8}")
_LONGEST_S = 86_400.0
_MOST = 1_000_000

_Rule = tuple[str, bool, str]


def version_of(alias: str) -> int | None:
    """The version that an alias-like name stands for (``v7``); None for an alias."""
    return int(alias[1:]) if _VERSION.fullmatch(alias) else None


def check_target(name: str) -> str:
    """``name`` itself: an alias, or ``v7`` for an exact version. Raises `InvalidName`; a name with ``--`` in it, which
    has no address, included."""
    if version_of(name) is None and "--" in check_alias(name):
        raise InvalidName("alias", f"{name!r} cannot be served: an alias with '--' in it has no address")
    return name


def check(spec: EndpointSpec, where: str = "endpoint") -> EndpointSpec:
    """``spec`` itself, or `InvalidInput` naming the path of the first field that cannot be."""
    documents.check(spec, where)
    check_name("model", spec.model)
    check_target(spec.alias)
    for field, holds, rule in _rules(spec):
        if not holds:
            raise InvalidInput(f"{where}.{field}", rule)
    return spec


def _rules(spec: EndpointSpec) -> Iterator[_Rule]:
    dedicated = spec.placement == "dedicated"
    yield "placement", spec.placement in PLACEMENTS, f"{spec.placement!r} is none of {', '.join(PLACEMENTS)}"
    yield "replicas", 1 <= spec.replicas <= 1000, f"{spec.replicas} is not between 1 and 1000"
    yield "replicas", dedicated or spec.replicas == 1, "pooled models share their processes: it has no replicas"
    yield "gpus", _within(spec.gpus, 0, 1024), f"{spec.gpus:g} is no number of GPUs"
    yield "gpus", dedicated or not spec.gpus, "the pool's processes hold no GPU: place the model dedicated"
    yield "cpus", spec.cpus is None or _within(spec.cpus, 0, 4096), f"{spec.cpus} is no number of CPUs"
    yield "cpus", dedicated or spec.cpus is None, "pooled models share their processes' CPUs"
    yield "pinned", not (dedicated and spec.pinned), "only a pooled model can be pinned"
    yield from _of_autoscale(spec)
    rows = spec.batching.max_rows
    yield "batching.max_rows", rows is None or 1 <= rows <= _MOST, f"it must be between 1 and {_MOST}"
    window = spec.batching.window_ms
    yield "batching.window_ms", window is None or _within(window, 0, 10_000), "it must be between 0 and 10 000 ms"
    yield from _of_limits(spec)
    yield "log.sample", _within(spec.log.sample, 0, 1), f"{spec.log.sample:g} is not between 0 and 1"
    durability = spec.log.durability
    yield "log.durability", durability in DURABILITIES, f"{durability!r} is none of {', '.join(DURABILITIES)}"
    yield "log.redact", len(set(spec.log.redact)) == len(spec.log.redact), "a field is named twice"
    yield "log.redact", all(spec.log.redact), "a field has no name"
    yield "explain.max_evaluations", 1 <= spec.explain.max_evaluations <= _MOST, f"it must be between 1 and {_MOST}"
    yield "explain.max_rows", 1 <= spec.explain.max_rows <= _MOST, f"it must be between 1 and {_MOST}"


def _of_autoscale(spec: EndpointSpec) -> Iterator[_Rule]:
    scale = spec.autoscale
    if scale is None:
        return
    yield "autoscale", spec.placement == "dedicated", "pooled models share their processes: place the model dedicated"
    yield "autoscale", spec.replicas == 1, "either replicas or autoscale: the load decides how many there are"
    yield "autoscale.max_replicas", 1 <= scale.max_replicas <= 1000, "it must be between 1 and 1000"
    least = scale.min_replicas
    yield "autoscale.min_replicas", 0 <= least <= scale.max_replicas, f"it must be 0 to {scale.max_replicas}"
    yield "autoscale.target_ongoing", _within(scale.target_ongoing, 0.01, 10_000), "it must be between 0.01 and 10 000"
    for field in ("upscale_delay_s", "downscale_delay_s"):
        yield f"autoscale.{field}", _within(getattr(scale, field), 0, _LONGEST_S), "it must be between 0 s and a day"


def _of_limits(spec: EndpointSpec) -> Iterator[_Rule]:
    limits = spec.limits
    yield "limits.queue", limits.queue is None or 0 <= limits.queue <= _MOST, f"it must be between 0 and {_MOST}"
    yield "limits.deadline_s", _within(limits.deadline_s, 0.001, 3600), "it must be between 1 ms and an hour"
    yield "limits.concurrency", 1 <= limits.concurrency <= 1024, "it must be between 1 and 1024"
    rate = limits.rate
    yield "limits.rate", rate is None or _within(rate, 0.001, 1e9), "it must be above 0 (requests per second)"
    yield "limits.burst", 1 <= limits.burst <= _MOST, f"it must be between 1 and {_MOST}"


def _within(value: float, least: float, most: float) -> bool:
    return math.isfinite(value) and least <= value <= most
