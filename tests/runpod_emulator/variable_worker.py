"""A worker on the real runpod SDK: answers with the variable VALUE of its environment, and prints as its jobs say."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import runpod


async def handle(job: dict[str, Any]) -> dict[str, Any]:
    """Jobs: `{"sleep": seconds, "lines": number, "say": text}`."""
    order = job["input"]
    for number in range(order.get("lines", 0)):
        sys.stdout.write(f"line {number}\n")
    sys.stdout.flush()
    sys.stderr.write(f"{order.get('say', 'began')}\n")
    sys.stderr.flush()
    await asyncio.sleep(order.get("sleep", 0))
    return {"value": os.environ.get("VALUE"), "worker": os.environ["RUNPOD_POD_ID"]}


runpod.serverless.start({"handler": handle, "concurrency_modifier": lambda current: 2})
