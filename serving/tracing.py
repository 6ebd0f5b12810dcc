"""OpenTelemetry traces of requests: route, engine (load, queue, encode, decode), image."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from osasis.errors import UserError
from serving.engine import Result

NEEDS_EXTRA = "traces need the extra otel: pip install 'style-factory[otel]'"
# Parts of a task on an engine, in order.
PARTS = ("load", "queue", "encode", "decode")


class Tracing:
    """Makes spans; does nothing without a collector.

    collector: address of an OTLP/HTTP collector, such as http://127.0.0.1:4318. Raises UserError
    where the extra is not installed.
    """

    def __init__(self, collector: str | None) -> None:
        self._tracer: Any = None
        self._provider: Any = None
        if collector is None:
            return
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError:
            raise UserError(NEEDS_EXTRA) from None
        provider = TracerProvider(resource=Resource.create({"service.name": "style-factory"}))
        exporter = OTLPSpanExporter(endpoint=f"{collector.rstrip('/')}/v1/traces")
        provider.add_span_processor(BatchSpanProcessor(exporter))
        self._provider = provider
        self._tracer = provider.get_tracer("style-factory")

    def close(self) -> None:
        """Send what has not been sent."""
        if self._provider is not None:
            self._provider.shutdown()

    @contextlib.contextmanager
    def request(self, method: str, headers: Mapping[str, str]) -> Iterator[Any]:
        """The span of a request, below the client's span in the header ``traceparent``.

        Yields the span, or None without a collector.
        """
        if self._tracer is None:
            yield None
            return
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract(headers)
        with self._tracer.start_as_current_span(method, parent, SpanKind.SERVER) as span:
            yield span

    @contextlib.contextmanager
    def span(self, name: str) -> Iterator[None]:
        """A span below the current one."""
        if self._tracer is None:
            yield
            return
        with self._tracer.start_as_current_span(name):
            yield

    def add_engine_parts(self, results: Sequence[Result]) -> None:
        """Spans of tasks that have just ended, from the seconds that the engine has measured."""
        if self._tracer is None:
            return
        now = time.time_ns()
        for result in results:
            seconds = [getattr(result, f"{part}_seconds") for part in PARTS]
            start = now - int(sum(seconds) * 1e9)
            for part, each in zip(PARTS, seconds, strict=True):
                end = start + int(each * 1e9)
                span = self._tracer.start_span(f"engine {part}", start_time=start)
                span.end(end)
                start = end
