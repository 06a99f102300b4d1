"""TextCalls: prompts and conversations in, texts, whole answers and streams out; what all clients of ours share.

A client says how an answer and a stream are got; the calls, their arguments and defaults are here. `**options` of a
call go into the request as they are.

Arguments are written once: a method is written for what its arguments come to, and `taking(arguments)` gives it the
arguments themselves, which type checkers and editors then see on it.
"""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar, cast

from vllm_service.client.connection import Connection
from vllm_service.client.payload import DEFAULT_MAX_TOKENS, DEFAULT_TEMPERATURE, Message, Payload
from vllm_service.client.results import Answer
from vllm_service.client.settings import ONE_ATTEMPT, RetryPolicy
from vllm_service.client.streams import TextStream, stream_of

S = TypeVar("S")
P = ParamSpec("P")
A = TypeVar("A")
T = TypeVar("T")


def taking(
    arguments: Callable[Concatenate[S, P], A],
) -> Callable[[Callable[[S, A], T]], Callable[Concatenate[S, P], T]]:
    """Returns a decorator: the method takes what `arguments` takes, and is given what `arguments` returns.

    A coroutine function stays one, so that wrong arguments are an error where it is awaited.
    """

    def sign(method: Callable[[S, A], T]) -> Callable[Concatenate[S, P], T]:
        if inspect.iscoroutinefunction(method):

            async def wait(self: S, /, *args: P.args, **options: P.kwargs) -> Any:
                return await method(self, arguments(self, *args, **options))

            return cast("Callable[Concatenate[S, P], T]", _signed(wait, arguments, method))

        def call(self: S, /, *args: P.args, **options: P.kwargs) -> T:
            return method(self, arguments(self, *args, **options))

        return cast("Callable[Concatenate[S, P], T]", _signed(call, arguments, method))

    return sign


def constructing(kind: Callable[P, A]) -> Callable[[Callable[[S, A], None]], Callable[Concatenate[S, P], None]]:
    """Returns a decorator for `__init__`: it takes what the class `kind` takes, and is given a new object of it."""

    made: Any = kind

    def sign(method: Callable[[S, A], None]) -> Callable[Concatenate[S, P], None]:
        def call(self: S, /, *args: P.args, **options: P.kwargs) -> None:
            method(self, kind(*args, **options))

        return cast("Callable[Concatenate[S, P], None]", _signed(call, made.__init__, method))

    return sign


def _signed(call: Any, arguments: Callable[..., Any], method: Callable[..., Any]) -> Any:
    """Name and description of the method, parameters of `arguments`: what `help` and `inspect` show."""
    functools.update_wrapper(call, method)
    returned = inspect.signature(method).return_annotation
    call.__signature__ = inspect.signature(arguments).replace(return_annotation=returned)
    call.__annotations__ = {**arguments.__annotations__, "return": returned}
    return call


class TextCalls(ABC):
    """What an application asks of models, whoever answers. Every call raises ServiceError."""

    def __init__(self, default_model: str) -> None:
        self.default_model = default_model

    @abstractmethod
    async def _answer(self, ask: Payload) -> Answer:
        """Returns the whole answer. Raises ServiceError."""

    @abstractmethod
    def _stream(self, ask: Payload) -> TextStream:
        """Returns the answer in pieces; nothing is sent before the first is wanted."""

    def _ask_of(self, prompt: str, model: str, fields: Mapping[str, Any]) -> Payload:
        """How a prompt is sent: as it is, without a chat template. Raises InvalidRequest."""
        return Payload.completion(prompt, model, fields)

    def _prompt(
        self,
        /,
        prompt: str,
        model: str | None = None,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        temperature: float = DEFAULT_TEMPERATURE,
        **options: Any,
    ) -> Payload:
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
    ) -> Payload:
        fields = {"max_tokens": max_tokens, "temperature": temperature, **options}
        return Payload.chat(messages, model or self.default_model, fields)

    @taking(_prompt)
    async def generate(self, ask: Payload) -> str:
        """Returns the text of the answer to a prompt."""
        return (await self._answer(ask)).text

    @taking(_prompt)
    async def complete(self, ask: Payload) -> Answer:
        """As `generate`, with provider, tokens, cost and times."""
        return await self._answer(ask)

    @taking(_conversation)
    async def chat(self, ask: Payload) -> Answer:
        """Returns the answer to a conversation; its tool calls, if any, are in `message`."""
        return await self._answer(ask)

    @taking(_prompt)
    def stream(self, ask: Payload) -> TextStream:
        """As `generate`, in pieces: `async for text in service.stream(...)`."""
        return self._stream(ask)

    @taking(_conversation)
    def stream_chat(self, ask: Payload) -> TextStream:
        """As `chat`, in pieces."""
        return self._stream(ask)


class Retried(NamedTuple):
    """A request, and how often it may be made."""

    ask: Payload
    policy: RetryPolicy


class EndpointCalls(TextCalls):
    """TextCalls of one endpoint; all but `generate` take `retry=`. retry: of generate_with_retry."""

    def __init__(self, connection: Connection, default_model: str, retry: RetryPolicy) -> None:
        super().__init__(default_model)
        self._connection = connection
        self._policy = retry

    async def _answer(self, ask: Payload) -> Answer:
        return await self._connection.answer(ask, ONE_ATTEMPT)

    def _stream(self, ask: Payload) -> TextStream:
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
