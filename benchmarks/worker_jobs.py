"""A worker's delays and memory: pick-up of a job by an idle worker, cancellation, memory over many jobs.

    python -m benchmarks.worker_jobs [pickup|cancel|memory ...] [--json] [--quick]

pickup  `delayTime` as the emulator reports it.
cancel  From the client's disconnect until the engine's server sees its connection closed, for a plain answer and in
        the middle of a stream.
memory  Resident size after each thousandth job.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import aiohttp
import psutil
from rich.console import Console
from rich.progress import track

from benchmarks.load import chat, closed_loop, quantile_of
from benchmarks.paced_upstream import PacedUpstream
from benchmarks.worker_stack import CHAT, Stack, emulated, one_token_stack

CONCURRENT = 32
THOUSAND = 1000
JOB = {"input": {"messages": [{"role": "user", "content": "Hi"}]}}
Figures = dict[str, float | list[float]]


async def pickup(jobs: int = 300) -> Figures:
    """Measures milliseconds from the queue to the worker, which is idle before each job."""
    async with one_token_stack() as stack, aiohttp.ClientSession() as session:
        delays = []
        for _ in _progress(range(jobs), "pick-up"):
            url = stack.worker_url.replace("/openai/v1/chat/completions", "/runsync")
            async with session.post(url, json=JOB) as answer:
                report = await answer.json()
            assert report["status"] == "COMPLETED", report
            delays.append(float(report["delayTime"]))
    return _quantiles("pickup", delays)


async def cancel(jobs: int = 100) -> Figures:
    """Measures milliseconds from the client's disconnect until the engine's server sees its connection closed."""
    figures: Figures = {}
    async with (
        PacedUpstream(tokens=1000) as upstream,  # so many that no answer ends before it is cancelled
        emulated({"VLLM_BASE_URL": upstream.url}, 0.0) as (url, metrics_port),
    ):
        stack = Stack(f"{upstream.url}{CHAT}", url, metrics_port, {"model": "paced"})
        for streaming in (False, True):
            kind = "stream" if streaming else "plain"
            waits = [await _disconnect(stack, upstream, streaming) for _ in _progress(range(jobs), f"cancel, {kind}")]
            figures |= _quantiles(f"cancel_{kind}", waits)
    return figures


async def _disconnect(stack: Stack, upstream: PacedUpstream, streaming: bool) -> float:
    aborted = upstream.stats.aborted
    async with aiohttp.ClientSession() as session:
        call = asyncio.create_task(_read(session, stack.worker_url, stack.body(1000, streaming)))
        await upstream.until(lambda stats: stats.in_flight == 1)
        await asyncio.sleep(0.1)  # somewhere in the middle of the answer
        cancelled_at = time.perf_counter()
        call.cancel()
        await upstream.until(lambda stats: stats.aborted > aborted)
        return (time.perf_counter() - cancelled_at) * 1000


async def _read(session: aiohttp.ClientSession, url: str, body: bytes) -> None:
    async with session.post(url, data=body) as response:
        await response.read()


async def memory(jobs: int = 20_000) -> Figures:
    """Measures the worker's resident megabytes after each thousand streaming jobs of one token."""
    sizes: list[float] = []
    connector = aiohttp.TCPConnector(limit=0)
    async with one_token_stack() as stack, aiohttp.ClientSession(connector=connector) as session:
        call = chat(session, stack.worker_url, stack.body(1, streaming=True))
        worker = next(child for child in psutil.Process().children() if "handler.py" in child.cmdline())
        for _ in _progress(range(jobs // THOUSAND), "memory, thousands of jobs"):
            await closed_loop(call, CONCURRENT, THOUSAND)
            sizes.append(round(worker.memory_info().rss / 1e6, 1))
    return {"rss_mb_after_each_thousand": sizes}


MEASURES: dict[str, Callable[..., Coroutine[Any, Any, Figures]]] = {
    "pickup": pickup,
    "cancel": cancel,
    "memory": memory,
}
QUICK_JOBS = {"pickup": 20, "cancel": 5, "memory": 2 * THOUSAND}


def _progress(steps: range, description: str) -> Iterable[int]:
    return track(steps, console=Console(stderr=True), description=description)


def _quantiles(name: str, milliseconds: list[float]) -> Figures:
    return {
        f"{name}_{label}_ms": round(quantile_of(milliseconds, share), 1)
        for label, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.worker_jobs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("measures", nargs="*", metavar="MEASURE", help=f"one of {', '.join(MEASURES)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="few jobs, to see that it runs")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    options = parser.parse_args()
    if unknown := set(options.measures) - set(MEASURES):
        parser.error(f"unknown MEASURE: {', '.join(sorted(unknown))}; known: {', '.join(MEASURES)}")
    figures: Figures = {}
    for name in options.measures or MEASURES:
        arguments = (QUICK_JOBS[name],) if options.quick else ()
        figures |= asyncio.run(MEASURES[name](*arguments))
    lines = json.dumps(figures) if options.json else "\n".join(f"{name}: {value}" for name, value in figures.items())
    sys.stdout.write(lines + "\n")


if __name__ == "__main__":
    main()
