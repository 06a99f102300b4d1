"""Streamed calls with the official OpenAI client, and their times as the caller sees them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from openai import AsyncOpenAI, OpenAIError

from benchmarks.compressed_trace.traffic import Prompts
from handler.settings import DEMO_MODEL_NAME
from vllm_service.simulation.trace import Trace


@dataclass(frozen=True)
class Answer:
    """The outcome of one call. Times are seconds of time.monotonic."""

    sent_at: float
    first_token_at: float = 0.0
    ended_at: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    #: The provider's name in the gateway's header.
    provider: str = ""
    #: The reason if there is no whole answer.
    error: str | None = None

    @property
    def token_seconds(self) -> float:
        """Returns the mean time between two tokens. The answer must have at least two."""
        return (self.ended_at - self.first_token_at) / (self.completion_tokens - 1)


class Caller:
    """Makes calls with given numbers of tokens at a base URL. Nothing is retried."""

    def __init__(self, base_url: str, api_key: str = "none") -> None:
        self._client = AsyncOpenAI(base_url=base_url, api_key=api_key, max_retries=0, timeout=300)
        self._prompts = Prompts()
        self._calls = 0

    async def ask(self, prompt_tokens: int, completion_tokens: int) -> Answer:
        """Makes one call. It raises nothing: a failure is in the answer's `error`."""
        self._calls += 1
        sent_at = time.monotonic()
        try:
            return await self._streamed(prompt_tokens, completion_tokens, self._calls, sent_at)
        except (OpenAIError, OSError, ValueError) as error:
            return Answer(sent_at, error=f"{type(error).__name__}: {error}")

    async def _streamed(self, prompt_tokens: int, completion_tokens: int, number: int, sent_at: float) -> Answer:
        response = await self._client.chat.completions.with_raw_response.create(
            model=DEMO_MODEL_NAME,
            messages=[{"role": "user", "content": self._prompts.of(prompt_tokens, number)}],
            max_tokens=completion_tokens,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True, "min_tokens": completion_tokens},
        )
        first_token_at = 0.0
        usage = None
        finish = None
        async for chunk in response.parse():
            usage = chunk.usage or usage
            if chunk.choices and not first_token_at and chunk.choices[0].delta.content:
                first_token_at = time.monotonic()
            finish = finish or (chunk.choices[0].finish_reason if chunk.choices else None)
        if usage is None or finish is None:
            raise ValueError("the stream ended early")
        ended_at = time.monotonic()
        return Answer(
            sent_at=sent_at,
            first_token_at=first_token_at or ended_at,  # no chunk had content
            ended_at=ended_at,
            prompt_tokens=prompt_tokens,
            completion_tokens=usage.completion_tokens,
            provider=response.headers.get("x-provider", ""),
        )

    async def play(self, trace: Trace, ended: Callable[[], object]) -> list[Answer]:
        """Sends each request at its time, whether or not earlier ones have ended. Returns all answers."""
        began_at = time.monotonic()

        async def at_its_time(arrival: float, prompt: float, completion: float) -> Answer:
            await asyncio.sleep(began_at + arrival - time.monotonic())
            answer = await self.ask(int(prompt), int(completion))
            ended()
            return answer

        rows = zip(trace.arrival_seconds, trace.prompt_tokens, trace.completion_tokens, strict=True)
        return await asyncio.gather(*(at_its_time(*map(float, row)) for row in rows))

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()
