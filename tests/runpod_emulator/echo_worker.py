"""A tiny worker on the real runpod SDK: echoes, streams, fails, sleeps and dies as its jobs say."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import runpod


async def handle(job: dict[str, Any]) -> AsyncIterator[Any]:
    """`{"openai_route", "openai_input"}` is answered by its `input`'s fields, like any other job."""
    order = job["input"].get("openai_input") or job["input"]
    await asyncio.sleep(order.get("sleep", 0))
    if order.get("die"):
        os._exit(3)
    if "fail" in order:
        yield {"error": order["fail"] if isinstance(order["fail"], str) else json.dumps(order["fail"])}
        return
    if "chunks" in order:
        for number in range(order["chunks"]):
            await asyncio.sleep(order.get("pause", 0))
            if order.get("die_after") == number:
                os._exit(3)
            yield f'data: {{"number": {number}}}\n\n'
        yield "data: [DONE]\n\n"
    elif "answer" in order:
        yield order["answer"]
    else:
        yield {"echo": job["input"], "worker": os.environ["RUNPOD_POD_ID"]}


runpod.serverless.start({"handler": handle, "return_aggregate_stream": True, "concurrency_modifier": lambda current: 4})
