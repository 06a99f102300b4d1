"""Prompts and conversations to one endpoint: texts, whole answers, streams."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vllm_service.client.asks import DEFAULT_MAX_TOKENS, DEFAULT_TEMPERATURE, Ask, Message
from vllm_service.client.connection import Connection
from vllm_service.client.results import Answer
from vllm_service.client.settings import ONE_ATTEMPT, RetryPolicy
from vllm_service.client.streams import TextStream, stream_of


class Generation:
    """What an application asks of a model. `**options` go into the request as they are."""

    def __init__(self, connection: Connection, default_model: str, retry: RetryPolicy) -> None:
        self._connection = connection
        self._policy = retry
        self.default_model = default_model

    async def generate(
        self,
        /,
        prompt: str,
        model: str | None = None,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        temperature: float = DEFAULT_TEMPERATURE,
        **options: Any,
    ) -> str:
        """The text that follows the prompt, which is sent as it is, without a chat template. One attempt."""
        answer = await self.complete(prompt, model, max_tokens, temperature, retry=ONE_ATTEMPT, **options)
        return answer.text

    async def generate_with_retry(
        self,
        /,
        prompt: str,
        model: str | None = None,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        temperature: float = DEFAULT_TEMPERATURE,
        *,
        retry: RetryPolicy | None = None,
        **options: Any,
    ) -> str:
        """As `generate`; transient errors are tried again, by default 3 attempts in all, 2 to 10 s apart."""
        answer = await self.complete(prompt, model, max_tokens, temperature, retry=retry or self._policy, **options)
        return answer.text

    async def complete(
        self,
        /,
        prompt: str,
        model: str | None = None,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        temperature: float = DEFAULT_TEMPERATURE,
        *,
        retry: RetryPolicy = ONE_ATTEMPT,
        **options: Any,
    ) -> Answer:
        """As `generate`, with tokens, cost and times."""
        fields = {"max_tokens": max_tokens, "temperature": temperature, **options}
        return await self._connection.answer(Ask.completion(prompt, model or self.default_model, fields), retry)

    async def chat(
        self,
        /,
        messages: Iterable[Message],
        model: str | None = None,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        temperature: float = DEFAULT_TEMPERATURE,
        *,
        retry: RetryPolicy = ONE_ATTEMPT,
        **options: Any,
    ) -> Answer:
        """The answer to a conversation; its tool calls, if any, are in `message`."""
        fields = {"max_tokens": max_tokens, "temperature": temperature, **options}
        return await self._connection.answer(Ask.chat(messages, model or self.default_model, fields), retry)

    def stream(
        self,
        /,
        prompt: str,
        model: str | None = None,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        temperature: float = DEFAULT_TEMPERATURE,
        *,
        retry: RetryPolicy = ONE_ATTEMPT,
        **options: Any,
    ) -> TextStream:
        """As `generate`, in pieces: `async for text in service.stream(...)`."""
        fields = {"max_tokens": max_tokens, "temperature": temperature, **options}
        return stream_of(self._connection, Ask.completion(prompt, model or self.default_model, fields), retry)

    def stream_chat(
        self,
        /,
        messages: Iterable[Message],
        model: str | None = None,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        temperature: float = DEFAULT_TEMPERATURE,
        *,
        retry: RetryPolicy = ONE_ATTEMPT,
        **options: Any,
    ) -> TextStream:
        """As `chat`, in pieces."""
        fields = {"max_tokens": max_tokens, "temperature": temperature, **options}
        return stream_of(self._connection, Ask.chat(messages, model or self.default_model, fields), retry)
