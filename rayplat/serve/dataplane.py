"""What happens to a request between its protocol and its answer, the same for every protocol.

`DataPlane.infer` reads from top to bottom: who answers (release control), features, the model, the checks of what it
gave, the log, the copies for shadows. Knows no bytes, no HTTP and no Ray.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, Protocol

import numpy as np

from rayplat.errors import DeadlineExceeded, InvalidInput, PartFailed, RayplatError, Unavailable
from rayplat.serve.computing.calls import Calls
from rayplat.serve.computing.lookups import Lookups
from rayplat.serve.follower import AliasFollower, PinnedVersions
from rayplat.serve.log.schema import RawRecord
from rayplat.serve.ports import Explanation, LoadedVersion
from rayplat.serve.request import Answer, Call, InferRequest
from rayplat.serve.telemetry.tracing import Tracing, step, traced
from rayplat.types import AliasHead, EndpointSpec, Release

log = logging.getLogger(__name__)

_SHED = 429  # refused for lack of time: counted, and kept out of the log, which an overload would flood
_STREAMS, _EXPLANATIONS = 4, 1  # at the same time; of a stream one piece

PRIMARY, PINNED, SHADOW, OVERRIDE = "primary", "pinned", "shadow", "override"


class Computing(Protocol):
    """Computes with a loaded version: bounded, in batches, off the loop where the model is slow (`batching`)."""

    async def run(
        self,
        loaded: LoadedVersion,
        columns: Mapping[str, Any],
        rows: int,
        params: Mapping[str, Any],
        deadline: float | None,
    ) -> Mapping[str, Any]: ...

    def admit(self, deadline: float | None) -> None:
        """Raises `Overloaded` where a request that comes now would be refused, `DeadlineExceeded` past its time."""
        ...


class Releasing(Protocol):
    """Release control as acted on in a host: `release_follower`, `variants` and `shadow` together."""

    @property
    def release(self) -> Release: ...

    def decide(self, request: InferRequest, call: Call) -> Decision: ...

    async def infer(self, target: str, role: str, request: InferRequest, call: Call) -> Answer:
        """The answer of another variant's host. Raises `Unavailable` where it cannot be reached."""
        ...

    def offer(self, targets: tuple[str, ...], request: InferRequest, call: Call) -> None:
        """Copies for shadows: an append, never more."""
        ...


class Decision(Protocol):
    """``target`` None: the host's own alias answers."""

    @property
    def target(self) -> str | None: ...

    @property
    def role(self) -> str: ...

    @property
    def shadows(self) -> tuple[str, ...]: ...


class Recording(Protocol):
    """The inference log's end in the host (`tap`)."""

    def record(self, record: RawRecord) -> None: ...


class Counting(Protocol):
    """The host's metrics (`metrics`)."""

    def answered(self, variant: str, version: int, status: int, latency_ms: float) -> None: ...


@dataclass(frozen=True)
class Serving:
    """Which version a request is checked against, and computed by unless release control says otherwise."""

    head: AliasHead
    loaded: LoadedVersion
    role: str = PRIMARY
    came_here: bool = True  # else it is counted by the host that it came to

    @property
    def variant(self) -> str:
        return self.head.alias if self.role == PRIMARY else f"v{self.loaded.version}"


class DataPlane:
    """Inference at one alias. ``releasing`` None: there is nothing to release here (a variant's own host)."""

    def __init__(
        self,
        spec: EndpointSpec,
        versions: tuple[AliasFollower, PinnedVersions],
        computing: Computing,
        *,
        tap: Recording | None = None,
        counts: Counting | None = None,
        releasing: Releasing | None = None,
    ) -> None:
        self._spec, self._computing = spec, computing
        self._follower, self._pinned = versions
        self._tap, self._counts, self._releasing = tap, counts, releasing
        self.tracing: Tracing | None = None
        self._redact = frozenset(spec.log.redact)
        self._lookups = Lookups(spec.limits.queue)
        self._streaming = Calls("stream", f"the stream of model {spec.model!r}", _STREAMS)
        self._explaining = Calls("explain", "the explanation", _EXPLANATIONS)

    @property
    def releasing(self) -> Releasing | None:
        return self._releasing

    # --- which version --------------------------------------------------------------------------------

    async def serving(self, version: int | None, deadline: float | None = None) -> Serving:
        """What answers, read once per request: the alias's own version, or the exact one that a path names, which may
        have to be loaded. `DeadlineExceeded` where that takes too long; it goes on, for those who ask again."""
        current = self._follower.current
        if version is None:
            return Serving(current.head, current.loaded)
        loaded = self.held(version)
        if loaded is None:
            left_s = None if deadline is None else max(deadline - time.monotonic(), 0.001)
            try:
                async with asyncio.timeout(left_s):
                    loaded = await self._pinned.get(version)
            except TimeoutError:
                raise DeadlineExceeded(f"the load of version {version}", left_s or 0.0) from None
        return Serving(current.head, loaded, PINNED)

    def held(self, version: int) -> LoadedVersion | None:
        """An exact version if it is loaded."""
        for serving in (self._follower.current, self._follower.previous):
            if serving is not None and serving.loaded.version == version:
                return serving.loaded
        return self._pinned.find(version)

    def versions(self) -> list[int]:
        """Every version that is loaded, in order."""
        current, previous = self._follower.current, self._follower.previous
        found = {current.loaded.version, *self._pinned.held()}
        return sorted(found | ({previous.loaded.version} if previous else set()))

    # --- inference ------------------------------------------------------------------------------------

    def admit(self, call: Call) -> None:
        """Raise `Overloaded` for a request that would be refused, before its bytes cost anything."""
        if self._releasing is None or not self._releasing.release.generation:
            self._computing.admit(call.deadline)

    async def infer(self, request: InferRequest, call: Call, serving: Serving) -> Answer:
        """The answer to a request that was parsed by ``serving``'s signature. Every failure is an error of our tree,
        and is in the log beside the answers."""
        if self.tracing is not None:
            return await traced(self.tracing, call, self._infer(request, call, serving))
        return await self._infer(request, call, serving)

    async def _infer(self, request: InferRequest, call: Call, serving: Serving) -> Answer:
        began = time.perf_counter()
        role = serving.role
        shadows: tuple[str, ...] = ()
        releasing = self._releasing
        if serving.role == PRIMARY and releasing is not None and (releasing.release.generation or call.target):
            decision = releasing.decide(request, call)
            role, shadows = decision.role, decision.shadows
            if decision.target is not None:
                elsewhere = (releasing, decision.target, decision.role)
                answer = await self._elsewhere(elsewhere, request, call, serving, began)
                releasing.offer(shadows, request, call)
                return answer
        answer = await self._here(request, call, serving, role, began)
        if shadows and releasing is not None:
            releasing.offer(shadows, request, call)
        return answer

    async def infer_as(self, role: str, request: InferRequest, call: Call) -> Answer:
        """The same for another host's request: this host's alias answers, under the role it was sent with."""
        current = self._follower.current
        here = self._here(
            request, call, Serving(current.head, current.loaded, came_here=False), role, time.perf_counter()
        )
        if self.tracing is not None and role != SHADOW:
            return await traced(self.tracing, call, here)
        return await here

    async def _elsewhere(
        self,
        elsewhere: tuple[Releasing, str, str],
        request: InferRequest,
        call: Call,
        serving: Serving,
        began: float,
    ) -> Answer:
        """Another variant's answer. Where that cannot be reached the alias's own version answers, and says so."""
        releasing, target, role = elsewhere
        try:
            answer = await releasing.infer(target, role, request, call)
        except Unavailable:
            self._count(target, 0, 503, began)
            if role == OVERRIDE:
                raise
            return await self._here(request, call, serving, PRIMARY, began)
        except RayplatError as e:
            self._count(target, 0, e.http_status, began)
            raise
        if self._counts is not None:  # as its own host measured it: variants are compared without the way between hosts
            self._counts.answered(answer.variant, answer.loaded.version, 200, answer.latency_ms)
        return answer

    async def _here(self, request: InferRequest, call: Call, serving: Serving, role: str, began: float) -> Answer:
        head, loaded = serving.head, serving.loaded
        at = request.event_time or call.received_at
        columns: Mapping[str, Any] = request.inputs
        try:
            if request.entity is not None and len(columns) < len(loaded.signature.inputs):
                columns = await self._looked_up(loaded, request, at, call)
            looked_up = time.perf_counter()
            outputs = await self._computing.run(loaded, columns, request.rows, request.params, call.deadline)
            if self.tracing is not None:
                if columns is not request.inputs:
                    step("features", began, looked_up, rows=request.rows)
                step("predict", looked_up, time.perf_counter(), rows=request.rows)
            if loaded.spec is not None:
                _all_finite(loaded, outputs)
            wanted = _wanted(loaded, request.outputs, outputs)
        except RayplatError as e:
            self._log(request, call, serving, (role, at, columns, None, began, e.http_status))
            raise
        except Exception as e:
            self._log(request, call, serving, (role, at, columns, None, began, 500))
            part = f"version {loaded.version} of model {loaded.model!r}"
            raise PartFailed(part, f"the model failed ({type(e).__name__}), see the host's log") from e
        latency_ms = self._log(request, call, serving, (role, at, columns, outputs, began, 200))
        return Answer(call.request_id, head, loaded, serving.variant, wanted, latency_ms)

    async def _looked_up(
        self, loaded: LoadedVersion, request: InferRequest, at: datetime, call: Call
    ) -> Mapping[str, Any]:
        """Every column of the model."""
        return await self._lookups.columns(loaded, request, at, self._left_s(call))

    def _log(
        self, request: InferRequest, call: Call, serving: Serving, done: tuple[str, datetime, Any, Any, float, int]
    ) -> float:
        """Count it and hand it to the log; its latency in milliseconds."""
        role, at, columns, outputs, began, status = done
        latency_ms = (time.perf_counter() - began) * 1000
        if self._counts is not None and serving.came_here:
            self._counts.answered(serving.variant, serving.loaded.version, status, latency_ms)
        if self._tap is not None and status != _SHED:
            self._tap.record(
                (
                    call.request_id,
                    request.rows,
                    call.received_at,
                    at,
                    serving.head,
                    serving.loaded.version,
                    request.entity,
                    columns,
                    outputs,
                    latency_ms,
                    status,
                    serving.variant,
                    role,
                    self._redacted(serving.loaded),
                )
            )
        return latency_ms

    def _redacted(self, loaded: LoadedVersion) -> frozenset[str]:
        """The fields that stay out of the log; the log knows the join key as ``entity``."""
        redact = self._redact
        return redact | {"entity"} if redact and not redact.isdisjoint(loaded.signature.keys) else redact

    def _count(self, variant: str, version: int, status: int, began: float) -> None:
        if self._counts is not None:
            self._counts.answered(variant, version, status, (time.perf_counter() - began) * 1000)

    # --- streams and explanations ---------------------------------------------------------------------

    async def stream(self, request: InferRequest, call: Call, serving: Serving) -> AsyncGenerator[Answer, None]:
        """The answer in pieces, as the model gives them: the first by the call's deadline, each later one within the
        endpoint's own limit after the last. The model runs in a thread and stops with its reader."""
        loaded = serving.loaded
        if loaded.streamer is None:
            raise InvalidInput("accept", f"model {loaded.model!r} version {loaded.version} gives no stream")
        began = time.perf_counter()
        at = request.event_time or call.received_at
        columns: Mapping[str, Any] = request.inputs
        if request.entity is not None and len(columns) < len(loaded.signature.inputs):
            columns = await self._looked_up(loaded, request, at, call)
        pieces = loaded.streamer.stream(columns, request.params)
        status, left_s = 499, self._left_s(call)
        try:
            while True:
                piece = await self._streaming.run(partial(next, pieces, None), left_s)
                left_s = self._spec.limits.deadline_s
                if piece is None:
                    status = 200
                    return
                outputs = {name: np.asarray(value) for name, value in piece.items()}
                yield Answer(call.request_id, serving.head, loaded, serving.variant, outputs)
        except RayplatError as e:
            status = e.http_status
            raise
        except Exception as e:
            status = 500
            log.exception("a stream failed", extra={"model": loaded.model, "version": loaded.version})
            part = f"version {loaded.version} of model {loaded.model!r}"
            raise PartFailed(part, f"its stream failed ({type(e).__name__}), see the host's log") from e
        finally:
            close = getattr(pieces, "close", None)
            if close is not None:
                self._streaming.later(close)
            self._log(request, call, serving, (serving.role, at, columns, None, began, status))

    def _left_s(self, call: Call) -> float:
        return self._spec.limits.deadline_s if call.deadline is None else max(call.deadline - time.monotonic(), 0.001)

    async def explain(self, request: InferRequest, call: Call, serving: Serving) -> Explanation:
        """Each input's part in the first output asked for. Bounded by the endpoint's budget; one that hangs costs no
        other its turn, and `Unavailable` is raised while too many have not returned."""
        loaded, budget = serving.loaded, self._spec.explain
        if loaded.explainer is None:
            raise InvalidInput("model", f"version {loaded.version} of {loaded.model!r} cannot be explained")
        if request.rows > budget.max_rows:
            raise InvalidInput("inputs", f"{request.rows} rows, at most {budget.max_rows} are explained at once")
        at = request.event_time or call.received_at
        columns: Mapping[str, Any] = request.inputs
        if request.entity is not None and len(columns) < len(loaded.signature.inputs):
            columns = await self._looked_up(loaded, request, at, call)
        output = request.outputs[0] if request.outputs else ""
        explain = partial(loaded.explainer.explain, columns, output, budget.max_evaluations)
        try:
            return await self._explaining.run(explain, self._left_s(call))
        except RayplatError:
            raise
        except Exception as e:
            log.exception("an explanation failed", extra={"model": loaded.model, "version": loaded.version})
            part = f"version {loaded.version} of model {loaded.model!r}"
            raise PartFailed(part, f"its explanation failed ({type(e).__name__}), see the host's log") from e

    def close(self) -> None:
        """End its threads; what they do is finished in the background."""
        for calls in (self._lookups, self._streaming, self._explaining):
            calls.close()


def relabelled(answer: Answer) -> Answer:
    """``answer`` as another process may have it: named in full, without what computes."""
    return replace(answer, loaded=answer.loaded.described())


def _wanted(loaded: LoadedVersion, names: tuple[str, ...], outputs: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs asked for, all where none are named. Before the answer counts as one: a canary that leaves out what
    its signature declares has failed."""
    if not names:
        return dict(outputs)
    for name in names:
        if name not in outputs:
            gives = ", ".join(map(repr, outputs)) or "none"
            raise PartFailed(f"version {loaded.version} of model {loaded.model!r}", f"no output {name!r}, only {gives}")
    return {name: outputs[name] for name in names}


def _all_finite(loaded: LoadedVersion, outputs: Mapping[str, Any]) -> None:
    for name, values in outputs.items():
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values))[0])
            part = f"version {loaded.version} of model {loaded.model!r}"
            raise PartFailed(part, f"its output {name!r} for row {row} is no finite number")
