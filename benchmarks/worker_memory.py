"""Whether the worker's memory stays flat: its resident size after every thousandth of many short jobs.

python -m benchmarks.worker_memory [--jobs 20000] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys

import aiohttp
import psutil
from rich.console import Console
from rich.progress import track

from benchmarks.load import chat, closed_loop
from benchmarks.worker_stack import one_token_stack

CONCURRENT, STEP = 32, 1000


async def measure(jobs: int) -> list[float]:
    """Resident megabytes of the worker after each thousand streaming jobs of one token."""
    sizes: list[float] = []
    connector = aiohttp.TCPConnector(limit=0)
    async with one_token_stack() as stack, aiohttp.ClientSession(connector=connector) as session:
        call = chat(session, stack.worker_url, stack.body(1, streaming=True))
        worker = next(child for child in psutil.Process().children() if "handler.py" in child.cmdline())
        for _ in track(range(jobs // STEP), console=Console(stderr=True), description="jobs"):
            await closed_loop(call, CONCURRENT, STEP)
            sizes.append(round(worker.memory_info().rss / 1e6, 1))
    return sizes


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sizes = asyncio.run(measure(options.jobs))
    if options.json:
        sys.stdout.write(json.dumps({"rss_mb_after_each_thousand": sizes}) + "\n")
    else:
        growth = sizes[-1] - sizes[len(sizes) // 2]
        sys.stdout.write(f"after each thousand jobs, MB: {sizes}\ngrowth over the last half: {growth:.1f} MB\n")


if __name__ == "__main__":
    main()
