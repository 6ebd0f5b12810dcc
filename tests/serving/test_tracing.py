"""Traces, received by a collector over OTLP."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from serving.engine import Result
from serving.tracing import PARTS, Tracing

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra otel is missing")
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_request_is_a_trace_with_the_parts_of_the_engine() -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    received: list[Any] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.path, ExportTraceServiceRequest.FromString(data)))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    tracing = Tracing(f"http://127.0.0.1:{server.server_address[1]}/")
    with tracing.request("POST", {"traceparent": PARENT}) as span:
        with tracing.span("engine"):
            tracing.add_engine_parts([Result(None, "float32", False, 1, 0.1, 0.2, 0.3, 0.4)])
        span.update_name("POST /v1/stylize")
    tracing.close()
    server.shutdown()
    server.server_close()
    ((path, sent),) = received
    assert path == "/v1/traces"
    spans = {s.name: s for s in sent.resource_spans[0].scope_spans[0].spans}
    root, engine = spans.pop("POST /v1/stylize"), spans.pop("engine")
    assert root.trace_id.hex() == PARENT.split("-")[1]
    assert root.parent_span_id.hex() == PARENT.split("-")[2]
    assert engine.parent_span_id == root.span_id
    parts = [spans.pop(f"engine {part}") for part in PARTS]
    assert all(p.parent_span_id == engine.span_id for p in parts) and not spans
    seconds = [(p.end_time_unix_nano - p.start_time_unix_nano) / 1e9 for p in parts]
    assert seconds == pytest.approx([0.2, 0.1, 0.3, 0.4], abs=1e-6)


def test_without_a_collector_nothing_is_traced() -> None:
    tracing = Tracing(None)
    with tracing.request("POST", {}) as span, tracing.span("engine"):
        tracing.add_engine_parts([])
    assert span is None
