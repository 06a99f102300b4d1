"""Spans: one for a request, one below it for each attempt, in the caller's trace, with numbers and no words."""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from aiohttp import web
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id

from tests.e2e.gateway import configure, gateway
from tests.vllm_service.canary import Canaries
from tests.vllm_service.gateway.asking import answers
from tests.vllm_service.gateway.running import SECRET, Running, catalog_of, running
from vllm_service.observability.opentelemetry import Tracing
from vllm_service.testing import ScriptedProvider, refused

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@asynccontextmanager
async def traced(spans: list[ReadableSpan], *upstreams: ScriptedProvider) -> AsyncIterator[Running]:
    """`spans` is filled when the block is left, in the order in which they ended."""
    exporter = InMemorySpanExporter()
    tracing = Tracing(exporter)
    async with running(catalog_of(*(upstream.url for upstream in upstreams)), tracer=tracing) as gateway:
        yield gateway
    tracing.close()
    spans.extend(exporter.get_finished_spans())


def attributes(span: ReadableSpan) -> Mapping[str, Any]:
    return span.attributes or {}


async def ask(gateway: Running, text: str = "Hi", **options: Any) -> Any:
    messages: Any = [{"role": "user", "content": text}]
    return await gateway.client.chat.completions.create(model="small", messages=messages, **options)


async def test_a_request_and_its_attempt_are_spans_of_the_callers_trace() -> None:
    spans: list[ReadableSpan] = []
    async with ScriptedProvider(answers) as upstream, traced(spans, upstream) as gateway:
        await ask(gateway, extra_headers={"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "mine"})
        await gateway.books.row()
    attempt, request = spans
    assert (request.name, request.kind) == ("chat.completions small", SpanKind.SERVER)
    assert request.parent is not None
    assert request.context is not None
    assert attempt.parent is not None
    assert (format_trace_id(request.context.trace_id), format_span_id(request.parent.span_id)) == (TRACE, PARENT)
    assert attempt.parent.span_id == request.context.span_id
    assert upstream.requests[0].headers["traceparent"] == f"00-{TRACE}-{format_span_id(request.context.span_id)}-01"
    told = attributes(request)
    assert (told["gen_ai.usage.input_tokens"], told["gen_ai.usage.output_tokens"]) == (10, 3)
    assert (told["gen_ai.provider.name"], told["vllm_service.outcome"]) == ("provider-1", "completed")
    assert (told["vllm_service.request_id"], told["http.response.status_code"]) == ("mine", 200)
    assert attributes(attempt)["vllm_service.outcome"] == "completed"
    assert attempt.start_time is not None
    assert attempt.end_time is not None
    assert attempt.start_time <= attempt.end_time


async def test_each_attempt_is_a_span_and_what_failed_says_so() -> None:
    spans: list[ReadableSpan] = []
    first, second = ScriptedProvider(refused(500)), ScriptedProvider(answers)
    async with first, second, traced(spans, first, second) as gateway:
        async for _ in await ask(gateway, stream=True):
            pass
        row = await gateway.books.row()
    *attempts, request = spans
    assert len(attempts) == row.attempts >= 2
    assert attempts[0].status.status_code is StatusCode.ERROR
    assert attributes(attempts[0])["http.response.status_code"] == 500
    assert attributes(attempts[-1])["gen_ai.provider.name"] == "provider-2"
    assert attributes(request)["vllm_service.stream"] is True
    assert request.status.status_code is StatusCode.UNSET


async def test_a_refused_request_is_a_span_without_attempts_or_secrets() -> None:
    canaries = Canaries()
    spans: list[ReadableSpan] = []
    async with ScriptedProvider(answers) as upstream, traced(spans, upstream) as gateway:
        await ask(gateway, canaries.prompt)
        gateway.books.is_full = True
        with pytest.raises(openai.RateLimitError):
            await ask(gateway, canaries.prompt)
        await gateway.books.row(1)
    assert attributes(spans[-1])["error.type"] == "RATE_LIMIT_429"
    assert attributes(spans[-1])["vllm_service.attempts"] == 0
    Canaries(key=SECRET, prompt=canaries.prompt).assert_unseen(*(span.to_json() for span in spans))


def test_nothing_of_it_is_imported_where_it_is_off() -> None:
    code = (
        "import sys, vllm_service.server.run; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_a_gateway_process_sends_its_spans_before_it_ends(tmp_path: Path) -> None:
    got: list[bytes] = []

    async def collect(request: web.Request) -> web.Response:
        got.append(await request.read())
        return web.Response()

    app = web.Application()
    app.router.add_post("/v1/traces", collect)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        entry = {"base_url": "http://127.0.0.1:9/v1"}
        configure(tmp_path, {"p": entry}, {"m": {"offers": [{"provider": "p", "model": "m"}]}})
        collector = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with gateway(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=collector) as served:
            async with httpx.AsyncClient(trust_env=False) as client:
                await client.post(f"{served.url}/chat/completions", json={"model": "none"})
            await served.stop()
    finally:
        await runner.cleanup()
    assert any(b"NOT_FOUND_404" in (gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body) for body in got)
