"""The three ways that are counted, each as a client drives it: a chat request, a worker's job, an LLMRouter call."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import aiohttp

from benchmarks.checkouts import MODEL, gateway, router, upstream
from benchmarks.paced_upstream import CHAT
from benchmarks.paced_upstream import MODEL as PACED_MODEL
from benchmarks.worker_stack import ROOT, emulated_worker, free_port, process
from scripts.entered_files.counting import Call, Last, Walk, walk_of

TRACED = Path(__file__).with_name("traced.py").resolve()
REQUESTS = 8
WARM_UP = 2
#: The pause after each request, in which its ledger row is written and its other remaining work ends.
QUIET_SECONDS = 0.6
MESSAGES = [{"role": "user", "content": "What is continuous batching?"}]
ASK = {"model": MODEL, "messages": MESSAGES, "temperature": 0.7, "max_tokens": 200}
HANDED_TO_THE_LEDGER = Last("record", in_path="ledger")
DEMO = {"MODEL_NAME": str(ROOT / "demo_model"), "SERVED_MODEL_NAME": PACED_MODEL, "KV_CACHE_MEMORY_BYTES": "256M"}
Windows = list[tuple[int, int]]


async def gateway_walk(tree: Path) -> Walk:
    """Counts one chat request over a kept connection: from the first byte read to the row handed to the ledger."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        written, launcher = _launcher(tree / "vllm_service", directory)
        async with upstream() as url, gateway(tree, url, directory, launcher=launcher) as served:
            kept = HTTPConnection(served.url.removeprefix("http://"))
            kept.connect()
            request = _chat_request(served.keys[0])

            def ask() -> None:
                kept.sock.sendall(request)
                with HTTPResponse(kept.sock, method="POST") as response:
                    response.begin()
                    if response.status != 200 or not response.read():
                        raise RuntimeError(f"the gateway answered {response.status}")

            windows = await _windows(lambda: asyncio.to_thread(ask), ends_with_the_answer=False)
            kept.close()
        return walk_of(_read(written), windows, HANDED_TO_THE_LEDGER)


def _chat_request(key: str) -> bytes:
    """Returns head and body for one write. In two, the gateway may read the head alone, which enters one file more."""
    body = json.dumps(ASK)
    head = [f"POST {CHAT} HTTP/1.1", "host: gateway", f"authorization: Bearer {key}", "content-type: application/json"]
    return "\r\n".join([*head, f"content-length: {len(body)}", "", body]).encode()


async def worker_walk(tree: Path, *, with_vllm: bool = False) -> Walk:
    """Counts one streaming job: from when it can be taken until its result has been posted."""
    with tempfile.TemporaryDirectory() as name:
        written, launcher = _launcher(tree / "handler", Path(name))
        if with_vllm:
            windows = await _jobs(tree, launcher, DEMO)
        else:
            port = free_port()
            paced = ("-m", "benchmarks.paced_upstream", "--port", str(port), "--interval-ms", "2")
            url = f"http://127.0.0.1:{port}"
            async with process(*paced, wait_for=f"{url}/health"):
                windows = await _jobs(tree, launcher, {"VLLM_BASE_URL": url})
        return walk_of(_read(written), windows, None)


async def router_walk(tree: Path) -> Walk:
    """Counts one call of LLMRouter.generate: from the call to its return."""
    with tempfile.TemporaryDirectory() as name:
        written, launcher = _launcher(tree / "vllm_service", Path(name))
        async with upstream() as url, router(tree, url, Path(name), callers=1, launcher=launcher) as asked:
            measured = await asked.calls(REQUESTS)
        return walk_of(_read(written), measured["windows"], None)


WALKS: dict[str, Callable[[Path], Awaitable[Walk]]] = {
    "gateway": gateway_walk,
    "worker": worker_walk,
    "router": router_walk,
}


async def _jobs(tree: Path, launcher: tuple[str, ...], variables: Mapping[str, str]) -> Windows:
    asked = {"model": PACED_MODEL, "messages": MESSAGES, "max_tokens": 32, "stream": True}
    job = {"input": {"openai_route": CHAT, "openai_input": asked}}
    async with (
        emulated_worker(variables, launcher=launcher, directory=tree) as worker,
        aiohttp.ClientSession() as session,
    ):

        async def run() -> None:
            async with session.post(f"{worker.endpoint_url}/runsync", json=job) as answer:
                report = await answer.json()
            if report.get("status") != "COMPLETED":
                raise RuntimeError(f"the job did not complete: {report}")

        return await _windows(run, ends_with_the_answer=True)


async def _windows(ask: Callable[[], Awaitable[None]], *, ends_with_the_answer: bool) -> Windows:
    """Returns the begin and end of each request after the warm-up: until its answer, or until the next request."""
    windows: Windows = []
    for _ in range(WARM_UP + REQUESTS):
        begun = time.monotonic_ns()
        await ask()
        answered = time.monotonic_ns()
        await asyncio.sleep(QUIET_SECONDS)
        windows.append((begun, answered if ends_with_the_answer else time.monotonic_ns()))
    return windows[WARM_UP:]


def _launcher(package: Path, directory: Path) -> tuple[Path, tuple[str, ...]]:
    written = directory / "calls.json"
    return written, (str(TRACED), str(package), str(written))


def _read(written: Path) -> list[Call]:
    return [Call(at_ns, file, function) for at_ns, _, file, function in json.loads(written.read_text())]
