"""A worker on the real runpod SDK that is ready when a file is there: GATE. It answers chat without a model."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

gate = Path(os.environ["GATE"])
while not gate.exists():
    time.sleep(0.01)

import runpod  # noqa: E402  # importing it is part of the start

USAGE = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}


async def handle(job: dict[str, Any]) -> AsyncIterator[Any]:
    """One answer."""
    message = {"role": "assistant", "content": "from an own worker"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    envelope = {"id": f"chatcmpl-{job['id']}", "object": "chat.completion", "created": 1, "model": "m"}
    yield {**envelope, "choices": [choice], "usage": USAGE}


runpod.serverless.start({"handler": handle, "return_aggregate_stream": True, "concurrency_modifier": lambda current: 4})
