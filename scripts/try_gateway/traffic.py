"""Sends questions of the demo model to the gateway, in waves, as an application would."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass

import httpx

from handler.settings import DEMO_MODEL_NAME
from scripts.try_gateway.configuration import PAIRS

#: The topics whose answers are sentences.
_TOPICS = frozenset({"about", "costs", "facts", "serverless", "serving"})
_TIMEOUT_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Waves:
    """When requests are sent: waves with pauses between them, for a limited time."""

    requests_per_second: float = 6.0
    wave_seconds: float = 150.0
    #: Long enough for the router to give the worker up, and for its idle timeout.
    pause_seconds: float = 45.0
    total_seconds: float = 600.0

    def sends_at(self, seconds: float) -> bool:
        """Returns whether a request is sent so long after the start."""
        return seconds < self.total_seconds and seconds % (self.wave_seconds + self.pause_seconds) < self.wave_seconds


def questions(seed: int = 1) -> Iterator[str]:
    """Yields questions without end, in a random order that is the same in every run."""
    pairs = [json.loads(line) for line in PAIRS.read_text(encoding="utf-8").splitlines()]
    known = [pair["question"] for pair in pairs if pair["topic"] in _TOPICS]
    generator = random.Random(seed)
    for _ in itertools.count():
        yield from generator.sample(known, len(known))


async def send(url: str, waves: Waves) -> None:
    """Sends the waves' requests, half of them as streams. A failed one is not repeated: the gateway counts it."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    gaps = random.Random(2)
    async with (
        httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_SECONDS, trust_env=False) as client,
        asyncio.TaskGroup() as group,
    ):
        for number, question in enumerate(questions()):
            # Independent callers come at exponential intervals.
            await asyncio.sleep(gaps.expovariate(waves.requests_per_second))
            elapsed = loop.time() - start
            if elapsed >= waves.total_seconds:
                return
            if waves.sends_at(elapsed):
                group.create_task(_send(client, question, stream=number % 2 == 0))


async def _send(client: httpx.AsyncClient, question: str, *, stream: bool) -> None:
    body = {
        "model": DEMO_MODEL_NAME,
        "messages": [{"role": "user", "content": question}],
        # Two callers with one question would otherwise share an answer of the response cache.
        "temperature": 0.1,
        "max_tokens": 60,
        "stream": stream,
    }
    try:
        await client.post("/v1/chat/completions", json=body)
    except httpx.HTTPError:
        return
