"""Requests of all kinds to several gateways: whole, streamed, left, with deadlines, not valid; and their provider."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from vllm_service.testing import (
    CLOSES,
    GARBAGE,
    HANGS,
    RESETS,
    Pause,
    ReceivedRequest,
    Reply,
    begun,
    chat_chunk,
    chat_document,
    chat_events,
    events,
    refused,
    whole,
)

USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
CALLERS = 48
#: Before the caller's own patience, so that a deadline is what ends a request that has one.
DEADLINE_MS = "60"


class MixedProvider:
    """Answers in a way that is drawn for each request."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice

    def __call__(self, request: ReceivedRequest) -> Reply:
        dice = self._dice
        drawn = dice.random()
        if drawn < 0.10:
            return dice.choice([refused(503), refused(429), refused(400), refused(500), whole(GARBAGE)])
        if drawn < 0.15:
            return dice.choice([RESETS, CLOSES, HANGS])
        usage = USAGE if dice.random() < 0.9 else None
        if request.is_stream:
            reply = events(*chat_events(*["word "] * 6, usage=usage))
            if drawn < 0.20:
                return begun(*[chat_chunk("word ")] * 3).then(Pause(None))
        else:
            reply = whole(chat_document("word " * 6, usage))
        if drawn < 0.25:
            return reply.cut_at(dice.randint(1, reply.size))
        return reply.after(0.12) if drawn < 0.40 else reply


@dataclass
class Callers:
    """Callers of several organisations at several gateways, and what they were answered."""

    urls: Sequence[str]
    #: By organisation.
    keys: dict[str, str]
    dice: random.Random
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    completed: dict[str, str] = field(default_factory=dict)

    async def make(self, count: int) -> None:
        """Makes so many requests, CALLERS of them at a time."""
        numbers = iter(range(count))
        limits = httpx.Limits(max_connections=CALLERS, max_keepalive_connections=CALLERS)
        async with httpx.AsyncClient(trust_env=False, timeout=30, limits=limits) as client:

            async def caller() -> None:
                for number in numbers:
                    await self._call(client, number)

            await asyncio.gather(*(caller() for _ in range(CALLERS)))

    async def _call(self, client: httpx.AsyncClient, number: int) -> None:
        dice = self.dice
        organisation = dice.choice(list(self.keys))
        kind = dice.random()
        is_stream = kind < 0.35
        body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": f"Question {number}, please."}]}
        body |= {"max_tokens": 20, "stream": is_stream}
        headers = {"authorization": f"Bearer {self.keys[organisation]}", "x-annotate": "off"}
        if dice.random() < 0.2:
            headers["x-request-timeout-ms"] = DEADLINE_MS
        content = b"{not json" if kind > 0.97 else json.dumps(body).encode()
        url = f"{self.urls[number % len(self.urls)]}/chat/completions"
        patience = dice.uniform(0.0, 0.05) if 0.85 < kind < 0.97 else 30.0
        with contextlib.suppress(httpx.TransportError, TimeoutError):
            async with (
                asyncio.timeout(patience),
                client.stream("POST", url, content=content, headers=headers) as answer,
            ):
                pieces = dice.randint(0, 3) if is_stream and kind < 0.1 else None
                await self._read(answer, organisation, pieces)

    async def _read(self, answer: httpx.Response, organisation: str, pieces: int | None) -> None:
        self.statuses[organisation, answer.status_code] += 1
        text = b""
        async for piece in answer.aiter_raw():
            text += piece
            if pieces is not None:
                pieces -= 1
                if pieces < 0:
                    return
        if answer.status_code == 200 and (b"[DONE]" in text or (b'"finish_reason"' in text and b"data:" not in text)):
            self.completed[answer.headers["x-request-id"]] = organisation
