"""OpenTelemetry traces of requests: the request, its feature read, its prediction. The owner of opentelemetry.

Off unless the settings name a collector, and then nothing of it is imported and a request pays one look at a None. A
caller's ``traceparent`` (W3C Trace Context) decides whether its request is traced and what it hangs below; requests
without one are sampled. Spans are made after the fact, from times that the data plane takes anyway: one call of a model
serves many requests, so none of them is "current" while it runs. Export is a thread's work, and a collector that is
away costs spans, never answers.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

from rayplat.errors import PartFailed, RayplatError
from rayplat.serve.request import Answer, Call
from rayplat.settings import TracingSettings
from rayplat.version import __version__

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?", re.ASCII)
_SAMPLED = 1

Attribute = str | int | float | bool

_CURRENT: ContextVar[Trace | None] = ContextVar("trace", default=None)


class Trace:
    """One traced request. Times are `time.perf_counter` seconds."""

    __slots__ = ("_context", "_epoch", "_span", "_tracer")

    def __init__(self, tracer: Any, span: Any, context: Any, epoch: Callable[[float], int]) -> None:
        self._tracer, self._span, self._context, self._epoch = tracer, span, context, epoch

    @property
    def traceparent(self) -> str:
        """What another process hangs its part below."""
        own = self._span.get_span_context()
        return f"00-{own.trace_id:032x}-{own.span_id:016x}-01"

    def step(self, name: str, began: float, ended: float, **attributes: Attribute) -> None:
        """A part of the request that is over: ``features``, ``predict``."""
        span = self._tracer.start_span(name, self._context, attributes=attributes, start_time=self._epoch(began))
        span.end(self._epoch(ended))

    def end(self, status: int, **attributes: Attribute) -> None:
        """The request is answered with ``status``. ``attributes``: model, version, alias, variant."""
        from opentelemetry.trace import StatusCode

        self._span.set_attributes({"http.response.status_code": status, **attributes})
        if status >= 500:
            self._span.set_status(StatusCode.ERROR)
        self._span.end(self._epoch(time.perf_counter()))


class Tracing:
    """Makes traces and hands them to ``processor`` (a span processor of the SDK)."""

    def __init__(self, processor: Any, sample: float, service: str = "rayplat") -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        resource = Resource.create({"service.name": service, "service.version": __version__})
        self._provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("rayplat.serve", __version__)
        self._sample = sample
        self._offset_s = time.time() - time.perf_counter()

    @classmethod
    def of(cls, settings: TracingSettings) -> Tracing | None:
        """As the settings say; None where they name no collector. Raises `PartFailed` without the exporter."""
        if settings.endpoint is None:
            return None
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        except ImportError as e:
            raise PartFailed("tracing", f"install rayplat[tracing] for tracing.endpoint ({e})") from e
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        headers = {name: value.get_secret_value() for name, value in settings.headers.items()}
        exporter = OTLPSpanExporter(settings.endpoint, headers=headers, timeout=settings.timeout_s)
        processor = BatchSpanProcessor(exporter, max_queue_size=4096, schedule_delay_millis=settings.flush_s * 1000)
        return cls(processor, settings.sample, settings.service)

    def begin(self, traceparent: str | None, name: str = "infer") -> Trace | None:
        """A trace of the request that begins now, or None for one that is not traced. A header that is no traceparent
        counts as none, as the specification wants it."""
        found = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
        if found is not None and int(found[1], 16) and int(found[2], 16):
            if not int(found[3], 16) & _SAMPLED:
                return None
            return self._begun(name, int(found[1], 16), int(found[2], 16))
        if random.random() >= self._sample:
            return None
        return self._begun(name, 0, 0)

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()

    def _begun(self, name: str, trace_id: int, span_id: int) -> Trace:
        from opentelemetry import trace
        from opentelemetry.context import Context

        above = Context()
        if trace_id:
            flags = trace.TraceFlags(trace.TraceFlags.SAMPLED)
            parent = trace.SpanContext(trace_id, span_id, is_remote=True, trace_flags=flags)
            above = trace.set_span_in_context(trace.NonRecordingSpan(parent), above)
        began = self._epoch(time.perf_counter())
        span = self._tracer.start_span(name, above, trace.SpanKind.SERVER, start_time=began)
        return Trace(self._tracer, span, trace.set_span_in_context(span, above), self._epoch)

    def _epoch(self, moment: float) -> int:
        """Nanoseconds since 1970 of a `time.perf_counter` moment."""
        return int((moment + self._offset_s) * 1e9)


async def traced(tracing: Tracing, call: Call, answering: Coroutine[Any, Any, Answer]) -> Answer:
    """What ``answering`` gives, in a trace of ``call`` if it is one that is traced; other hosts hang theirs below."""
    trace = tracing.begin(call.traceparent)
    if trace is None:
        return await answering
    call.traceparent = trace.traceparent
    token = _CURRENT.set(trace)
    status, named = 500, {"rayplat.request_id": call.request_id}
    try:
        answer = await answering
        status = 200
        loaded = answer.loaded
        named |= {"rayplat.model": loaded.model, "rayplat.alias": answer.head.alias, "rayplat.variant": answer.variant}
        named["rayplat.version"] = str(loaded.version)
        return answer
    except RayplatError as e:
        status = e.http_status
        raise
    finally:
        _CURRENT.reset(token)
        trace.end(status, **named)


def step(name: str, began: float, ended: float, **attributes: Attribute) -> None:
    """A part of the request that this task answers, if that is traced. `time.perf_counter` seconds."""
    trace = _CURRENT.get()
    if trace is not None:
        trace.step(name, began, ended, **attributes)
