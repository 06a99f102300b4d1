"""TextCalls: prompts and conversations in, texts, whole answers and streams out; what all clients of ours share.

A client says how an answer and a stream are got; the calls, their arguments and defaults are here. `**options` of a
call go into the request as they are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from vllm_service.client.asks import DEFAULT_MAX_TOKENS, DEFAULT_TEMPERATURE, Ask, Message
from vllm_service.client.connection import Connection
from vllm_service.client.results import Answer
from vllm_service.client.settings import ONE_ATTEMPT, RetryPolicy
from vllm_service.client.signatures import taking
from vllm_service.client.streams import TextStream, stream_of


class TextCalls(ABC):
    """What an application asks of models, whoever answers. Every call raises ServiceError."""

    def __init__(self, default_model: str) -> None:
        self.default_model = default_model

    @abstractmethod
    async def _answer(self, ask: Ask) -> Answer:
        """Returns the whole answer. Raises ServiceError."""

    @abstractmethod
    def _stream(self, ask: Ask) -> TextStream:
        """Returns the answer in pieces; nothing is sent before the first is wanted."""

    def _ask_of(self, prompt: str, model: str, fields: Mapping[str, Any]) -> Ask:
        """How a prompt is sent: as it is, without a chat template. Raises InvalidRequest."""
        return Ask.completion(prompt, model, fields)

    def _prompt(
        self,
        /,
        prompt: str,
        model: str | None = None,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        temperature: float = DEFAULT_TEMPERATURE,
        **options: Any,
    ) -> Ask:
        fields = {"max_tokens": max_tokens, "temperature": temperature, **options}
        return self._ask_of(prompt, model or self.default_model, fields)

    def _conversation(
        self,
        /,
        messages: Iterable[Message],
        model: str | None = None,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        temperature: float = DEFAULT_TEMPERATURE,
        **options: Any,
    ) -> Ask:
        fields = {"max_tokens": max_tokens, "temperature": temperature, **options}
        return Ask.chat(messages, model or self.default_model, fields)

    @taking(_prompt)
    async def generate(self, ask: Ask) -> str:
        """Returns the text of the answer to a prompt."""
        return (await self._answer(ask)).text

    @taking(_prompt)
    async def complete(self, ask: Ask) -> Answer:
        """As `generate`, with provider, tokens, cost and times."""
        return await self._answer(ask)

    @taking(_conversation)
    async def chat(self, ask: Ask) -> Answer:
        """Returns the answer to a conversation; its tool calls, if any, are in `message`."""
        return await self._answer(ask)

    @taking(_prompt)
    def stream(self, ask: Ask) -> TextStream:
        """As `generate`, in pieces: `async for text in service.stream(...)`."""
        return self._stream(ask)

    @taking(_conversation)
    def stream_chat(self, ask: Ask) -> TextStream:
        """As `chat`, in pieces."""
        return self._stream(ask)


class Retried(NamedTuple):
    """A request, and how often it may be made."""

    ask: Ask
    policy: RetryPolicy


class EndpointCalls(TextCalls):
    """TextCalls of one endpoint; all but `generate` take `retry=`. retry: of generate_with_retry."""

    def __init__(self, connection: Connection, default_model: str, retry: RetryPolicy) -> None:
        super().__init__(default_model)
        self._connection = connection
        self._policy = retry

    async def _answer(self, ask: Ask) -> Answer:
        return await self._connection.answer(ask, ONE_ATTEMPT)

    def _stream(self, ask: Ask) -> TextStream:
        return stream_of(self._connection, ask, ONE_ATTEMPT)

    def _retried_prompt(
        self,
        /,
        prompt: str,
        model: str | None = None,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        temperature: float = DEFAULT_TEMPERATURE,
        *,
        retry: RetryPolicy = ONE_ATTEMPT,
        **options: Any,
    ) -> Retried:
        return Retried(self._prompt(prompt, model, max_tokens, temperature, **options), retry)

    def _retried_conversation(
        self,
        /,
        messages: Iterable[Message],
        model: str | None = None,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        temperature: float = DEFAULT_TEMPERATURE,
        *,
        retry: RetryPolicy = ONE_ATTEMPT,
        **options: Any,
    ) -> Retried:
        return Retried(self._conversation(messages, model, max_tokens, temperature, **options), retry)

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

    @taking(_retried_prompt)
    async def complete(self, call: Retried) -> Answer:
        """As `generate`, with tokens, cost and times."""
        return await self._connection.answer(call.ask, call.policy)

    @taking(_retried_conversation)
    async def chat(self, call: Retried) -> Answer:
        """Returns the answer to a conversation; its tool calls, if any, are in `message`."""
        return await self._connection.answer(call.ask, call.policy)

    @taking(_retried_prompt)
    def stream(self, call: Retried) -> TextStream:
        """As `generate`, in pieces: `async for text in service.stream(...)`."""
        return stream_of(self._connection, call.ask, call.policy)

    @taking(_retried_conversation)
    def stream_chat(self, call: Retried) -> TextStream:
        """As `chat`, in pieces."""
        return stream_of(self._connection, call.ask, call.policy)
