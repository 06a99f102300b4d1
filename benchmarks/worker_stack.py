"""The processes of the worker benchmarks: upstream, emulator, worker."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import sys
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runpod_emulator.settings import EndpointSettings, worker_environment

ROOT = Path(__file__).resolve().parents[1]
READY_SECONDS = 180
CHAT = "/v1/chat/completions"
QUESTION = [{"role": "user", "content": "What is continuous batching?"}]


@dataclass(frozen=True)
class Posted:
    """The worker's posts to RunPod so far, by its own metrics."""

    stream_posts: float
    total_bytes: float
    payload_bytes: float

    def __sub__(self, other: Posted) -> Posted:
        return Posted(
            self.stream_posts - other.stream_posts,
            self.total_bytes - other.total_bytes,
            self.payload_bytes - other.payload_bytes,
        )


@dataclass(frozen=True)
class Stack:
    """The addresses of a running stack."""

    #: The chat route of the upstream itself.
    direct_url: str
    #: The chat route through emulator and worker.
    worker_url: str
    metrics_port: int
    #: Fields of every request's body.
    extra: Mapping[str, Any]

    def body(self, tokens: int, streaming: bool) -> bytes:
        """Returns a chat request for so many tokens."""
        fields = {"messages": QUESTION, "max_tokens": tokens, "stream": streaming, "temperature": 0}
        return json.dumps(fields | dict(self.extra)).encode()

    def posted(self) -> Posted:
        """Reads the worker's metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics") as response:
            text = response.read().decode()

        def value(name: str) -> float:
            found = re.findall(rf"^{re.escape(name)} (\S+)$", text, flags=re.MULTILINE)
            return float(found[0]) if found else 0.0

        kinds = ("stream", "result")
        total = sum(value(f'worker_posted_bytes_total{{kind="{kind}"}}') for kind in kinds)
        return Posted(value('worker_posts_total{kind="stream"}'), total, value("worker_stream_payload_bytes_total"))


@asynccontextmanager
async def paced_stack(post_latency_seconds: float = 0.0) -> AsyncIterator[Stack]:
    """Starts a worker with an upstream of 32 tokens, 10 ms apart, behind VLLM_BASE_URL."""
    port = free_port()
    async with (
        process("-m", "benchmarks.paced_upstream", "--port", str(port), wait_for=f"http://127.0.0.1:{port}/health"),
        emulated({"VLLM_BASE_URL": f"http://127.0.0.1:{port}"}, post_latency_seconds) as (worker_url, metrics_port),
    ):
        yield Stack(f"http://127.0.0.1:{port}{CHAT}", worker_url, metrics_port, {"model": "paced"})


@asynccontextmanager
async def one_token_stack() -> AsyncIterator[Stack]:
    """Starts a worker with an upstream of one token after a millisecond: nearly nothing but the job loop."""
    port = free_port()
    upstream = ("-m", "benchmarks.paced_upstream", "--port", str(port), "--tokens", "1", "--interval-ms", "1")
    async with (
        process(*upstream, wait_for=f"http://127.0.0.1:{port}/health"),
        emulated({"VLLM_BASE_URL": f"http://127.0.0.1:{port}"}, 0.0) as (worker_url, metrics_port),
    ):
        yield Stack(f"http://127.0.0.1:{port}{CHAT}", worker_url, metrics_port, {"model": "paced"})


@asynccontextmanager
async def demo_stack() -> AsyncIterator[Stack]:
    """Starts a worker with the demo model embedded; the direct URL is that of a second worker in HTTP mode."""
    port = free_port()
    demo = {"MODEL_NAME": str(ROOT / "demo_model"), "SERVED_MODEL_NAME": "demo", "KV_CACHE_MEMORY_BYTES": "256M"}
    direct = demo | {"PORT": str(port)}
    async with (
        process("handler.py", "--http", variables=direct, wait_for=f"http://127.0.0.1:{port}/ping"),
        emulated(demo, 0.0) as (worker_url, metrics_port),
    ):
        extra = {"model": "demo", "ignore_eos": True}
        yield Stack(f"http://127.0.0.1:{port}{CHAT}", worker_url, metrics_port, extra)


@asynccontextmanager
async def emulated(variables: Mapping[str, str], post_latency_seconds: float) -> AsyncIterator[tuple[str, int]]:
    """Starts an emulator with one worker. Yields the URL of its chat route and the worker's metrics port."""
    async with emulated_worker(variables, post_latency_seconds) as worker:
        yield f"{worker.endpoint_url}/openai{CHAT}", worker.metrics_port


@dataclass(frozen=True)
class EmulatedWorker:
    """A worker that waits for jobs behind an emulated endpoint."""

    endpoint_url: str
    metrics_port: int
    #: The process that was started.
    pid: int


@asynccontextmanager
async def emulated_worker(
    variables: Mapping[str, str],
    post_latency_seconds: float = 0.0,
    *,
    launcher: Sequence[str] = (),
    directory: Path = ROOT,
) -> AsyncIterator[EmulatedWorker]:
    """Starts an emulator of this checkout with one worker of the checkout in `directory`.

    launcher: the arguments that precede handler.py.
    """
    port = free_port()
    metrics_port = free_port()
    endpoint = f"http://127.0.0.1:{port}/v2/bench"
    options = ("--port", str(port), "--latency", str(post_latency_seconds))
    async with process("-m", "benchmarks.emulator_process", *options, wait_for=f"{endpoint}/health"):
        environment = worker_environment(EndpointSettings(endpoint_id="bench"), f"http://127.0.0.1:{port}", "worker-1")
        worker = environment | dict(variables) | {"METRICS_PORT": str(metrics_port), "LOG_LEVEL": "WARNING"}
        async with process(*launcher, "handler.py", variables=worker, directory=directory) as pid:
            await until(lambda: json.loads(_get(f"{endpoint}/health"))["workers"]["idle"] > 0)
            yield EmulatedWorker(endpoint, metrics_port, pid)


@asynccontextmanager
async def process(
    *arguments: str, variables: Mapping[str, str] | None = None, wait_for: str = "", directory: Path = ROOT
) -> AsyncIterator[int]:
    """Runs `python ARGUMENTS` until the end of the context. Yields its id once `wait_for`, a URL, answers 200."""
    started = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, cwd=directory, env=environment(variables or {}), stdout=asyncio.subprocess.DEVNULL
    )
    try:
        if wait_for:
            await until(lambda: _answers(wait_for, started.returncode))
        yield started.pid
    finally:
        if started.returncode is None:
            started.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(started.wait(), 20)
            if started.returncode is None:
                started.kill()


async def until(condition: Any) -> None:
    """Waits for a condition, which is checked every tenth of a second. Raises TimeoutError."""
    async with asyncio.timeout(READY_SECONDS):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - other processes set no event
            await asyncio.sleep(0.1)


def free_port() -> int:
    """Returns a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Returns a small environment for measured processes, with these variables."""
    # Without PYTHONDONTWRITEBYTECODE above all: it slows down every import.
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return kept | {"HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR"} | dict(variables)


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310 - our own processes
        body: bytes = response.read()
        return body


def _answers(url: str, exit_code: int | None) -> bool:
    if exit_code is not None:
        raise RuntimeError(f"the process behind {url} ended with {exit_code}")
    try:
        with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310 - our own processes
            return bool(response.status == 200)
    except OSError:
        return False
