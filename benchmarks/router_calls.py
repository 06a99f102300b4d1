"""`python router_calls.py CALLS CALLERS`: calls LLMRouter.generate, prints the CPU that it took and when each ran.

Started by path, with the checkout that is measured as PYTHONPATH: it uses the public name and CONFIG_DIR's files only.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from vllm_service import LLMRouter

WARM_UP_CALLS = 3
PROMPT = "word " * 120


async def measure(calls: int, callers: int) -> dict[str, object]:
    """CPU seconds of the calls, user and system; nanoseconds of the monotonic clock at the begin and end of each."""
    windows: list[tuple[int, int]] = []
    async with LLMRouter() as router:

        async def ask(turns: int) -> None:
            for _ in range(turns):
                begun = time.monotonic_ns()
                await router.generate(PROMPT)
                windows.append((begun, time.monotonic_ns()))

        await asyncio.gather(*(ask(WARM_UP_CALLS) for _ in range(callers)))
        windows.clear()
        before = time.process_time()
        await asyncio.gather(*(ask(calls // callers) for _ in range(callers)))
        return {"cpu_seconds": time.process_time() - before, "calls": len(windows), "windows": windows}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(measure(int(sys.argv[1]), int(sys.argv[2])))))
