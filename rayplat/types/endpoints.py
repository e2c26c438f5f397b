"""How an alias is served: the values of a serving spec. One `EndpointSpec` for each served (model, alias)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Autoscale:
    """Replicas follow load: as many as keep ``target_ongoing`` requests in each. ``min_replicas`` may be 0: the first
    request after an idle time waits for a start. Delays in seconds."""

    min_replicas: int = 1
    max_replicas: int = 4
    target_ongoing: float = 8.0
    upscale_delay_s: float = 10.0
    downscale_delay_s: float = 300.0


@dataclass(frozen=True)
class Batching:
    """Requests that wait while the model is busy are computed together, at most ``max_rows`` rows at once. None: 256
    where the model's format says that rows do not depend on each other, and requests of their own for a model that
    brings its code; a number says that its rows do not either. ``window_ms``, where given, is a fixed window that every
    request waits for others; None follows the load."""

    max_rows: int | None = None
    window_ms: float | None = None


@dataclass(frozen=True)
class Limits:
    """``queue``: requests that may wait for the model; more are refused with 429. None: as many as can be answered
    within ``deadline_s`` and without tail latency growing beyond twice its normal. ``concurrency``: predictions of the
    model at the same time. ``rate``: requests per second and token, None for no limit; ``burst`` at once."""

    queue: int | None = None
    deadline_s: float = 30.0
    concurrency: int = 1
    rate: float | None = None
    burst: int = 50


@dataclass(frozen=True)
class Logging:
    """The inference log: ``sample`` (0 to 1) of the requests by hash of their id; values of the fields in ``redact``
    are left out. ``durability`` ``memory`` may lose what was not yet acknowledged when the replica is killed,
    ``spool`` writes to the replica's disk first and loses none."""

    sample: float = 1.0
    durability: str = "memory"
    redact: tuple[str, ...] = ()


@dataclass(frozen=True)
class Explaining:
    """``/explain``: at most ``max_evaluations`` rows computed by the model for one request, at most ``max_rows`` rows
    in it."""

    max_evaluations: int = 4096
    max_rows: int = 16


@dataclass(frozen=True)
class EndpointSpec:
    """One served alias. ``placement`` is ``dedicated`` (an application of its own) or ``pooled`` (a few processes share
    many models; ``pinned`` ones are never put out). ``cpus`` None is the setting's. ``public``: predictions need no
    token. ``default``: this model answers MLflow's routes at the root."""

    model: str
    alias: str = "champion"
    placement: str = "dedicated"
    replicas: int = 1
    autoscale: Autoscale | None = None
    cpus: float | None = None
    gpus: float = 0.0
    pinned: bool = False
    public: bool = False
    default: bool = False
    batching: Batching = Batching()
    limits: Limits = Limits()
    log: Logging = Logging()
    explain: Explaining = Explaining()
