"""`python router_calls.py CALLERS`: makes as many calls of LLMRouter.generate as each line on stdin requests.

For each line it prints one with the CPU time of the calls and the times of each. It is started by path, with the
measured checkout as PYTHONPATH: it uses only the public name and CONFIG_DIR's files.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from vllm_service import LLMRouter

WARM_UP_CALLS = 3
PROMPT = "word " * 120


async def measure(router: LLMRouter, calls: int, callers: int) -> dict[str, object]:
    """Makes the calls. Returns their CPU seconds, and the begin and end of each in monotonic nanoseconds."""
    windows: list[tuple[int, int]] = []

    async def ask(turns: int) -> None:
        for _ in range(turns):
            begun = time.monotonic_ns()
            await router.generate(PROMPT)
            windows.append((begun, time.monotonic_ns()))

    before = time.process_time()
    await asyncio.gather(*(ask(calls // callers) for _ in range(callers)))
    return {"cpu_seconds": time.process_time() - before, "calls": len(windows), "windows": windows}


async def main(callers: int) -> None:
    """Handles one line after the other until the end of stdin."""
    async with LLMRouter() as router:
        await measure(router, WARM_UP_CALLS * callers, callers)
        while line := await asyncio.to_thread(sys.stdin.readline):
            sys.stdout.write(json.dumps(await measure(router, int(line), callers)) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
