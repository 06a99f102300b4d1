"""How long a job waits before an idle worker has it: the emulator's own `delayTime` of many single jobs.

python -m benchmarks.worker_pickup [--jobs 300] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys

import aiohttp

from benchmarks.load import quantile_of
from benchmarks.worker_stack import one_token_stack

JOB = {"input": {"messages": [{"role": "user", "content": "Hi"}]}}


async def measure(jobs: int) -> list[float]:
    """Milliseconds from queue to worker, job by job; the worker is idle before each."""
    async with one_token_stack() as stack, aiohttp.ClientSession() as session:
        delays = []
        for _ in range(jobs):
            async with session.post(
                stack.worker_url.replace("/openai/v1/chat/completions", "/runsync"), json=JOB
            ) as answer:
                report = await answer.json()
            assert report["status"] == "COMPLETED", report
            delays.append(float(report["delayTime"]))
        return delays


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    delays = asyncio.run(measure(options.jobs))
    result = {f"pickup_{name}_ms": quantile_of(delays, share) for name, share in (("p50", 0.5), ("p99", 0.99))}
    sys.stdout.write(json.dumps(result) + "\n" if options.json else f"{len(delays)} jobs: {result}\n")


if __name__ == "__main__":
    main()
