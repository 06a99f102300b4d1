"""`python -m benchmarks.gateway soak --requests N [--data-dir DIR]`: the gateway's memory while it serves requests.

It prints a line of JSON after every tenth of the requests; Ctrl-C may end it early. With the same DIR a second run
continues with the ledger of the first, in a new process. The slope after the first tenth is what counts: allocators,
pools and the database's page cache fill at the start.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import tempfile
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import uvloop

from benchmarks.gateway import CALLERS, CHAT, LOAD_CORE, PORTS, Upstream, start
from benchmarks.gateway_load import closed_loop, requests_of
from benchmarks.gateway_peers import ours


async def soak(requests: int, directory: Path) -> AsyncGenerator[dict[str, float], None]:
    """Yields the requests so far, the resident MB, and the requests per second of each tenth."""
    os.sched_setaffinity(0, {LOAD_CORE})
    with Upstream() as (upstream, _):
        started = await start(await ours(upstream, PORTS, directory), directory)
        try:
            chat = requests_of(started.peer.url, CHAT, started.peer.keys)
            done = 0
            yield {"requests": done, "rss_mb": round(started.rss_mb, 1)}
            for _ in range(10):
                begun = time.perf_counter()
                calls = max(1, requests // 10 // CALLERS)
                await closed_loop(started.peer.url, chat, callers=CALLERS, calls=calls)
                done += calls * CALLERS
                per_second = calls * CALLERS / (time.perf_counter() - begun)
                yield {"requests": done, "rss_mb": round(started.rss_mb, 1), "requests_per_second": round(per_second)}
        finally:
            started.stop()


async def _print(requests: int, directory: Path) -> None:
    async with contextlib.aclosing(soak(requests, directory)) as points:
        async for point in points:
            print(json.dumps(point), flush=True)  # noqa: T201


def main(arguments: list[str]) -> None:
    """Measures, and prints each line when it is known."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway soak", description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000, metavar="N", help="(default: %(default)s)")
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="where the ledger is (default: a temporary folder)"
    )
    options = parser.parse_args(arguments)
    with contextlib.ExitStack() as stack:
        directory = options.data_dir or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
            uvloop.run(_print(options.requests, directory))
