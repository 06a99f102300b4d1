"""TextCalls: the calls that all clients share, from prompts and conversations to texts, answers and streams.

A client implements how it gets an answer and a stream; the calls, their arguments and defaults are here. `**options`
of a call go into the request unchanged.

The arguments of several calls are written once, as a function that makes a request of them. `taking(arguments)` gives a
method those arguments, which type checkers and editors show for it; the method itself gets the request.
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
    """Returns a decorator that gives a method the parameters of `arguments`, and passes it the result of `arguments`.

    A coroutine function stays one, so wrong arguments raise where it is awaited.
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
    """Returns a decorator that gives `__init__` the parameters of the class `kind`, and passes it a new object."""

    made: Any = kind

    def sign(method: Callable[[S, A], None]) -> Callable[Concatenate[S, P], None]:
        def call(self: S, /, *args: P.args, **options: P.kwargs) -> None:
            method(self, kind(*args, **options))

        return cast("Callable[Concatenate[S, P], None]", _signed(call, made.__init__, method))

    return sign


def _signed(call: Any, arguments: Callable[..., Any], method: Callable[..., Any]) -> Any:
    """Sets what `help` and `inspect` show: name and description of the method, parameters of `arguments`."""
    functools.update_wrapper(call, method)
    returned = inspect.signature(method).return_annotation
    call.__signature__ = inspect.signature(arguments).replace(return_annotation=returned)
    call.__annotations__ = {**arguments.__annotations__, "return": returned}
    return call


class TextCalls(ABC):
    """The text calls of an application, independent of the provider. Every call raises ServiceError."""

    def __init__(self, default_model: str) -> None:
        self.default_model = default_model

    @abstractmethod
    async def _answer(self, ask: Payload) -> Answer:
        """Returns the whole answer. Raises ServiceError."""

    @abstractmethod
    def _stream(self, ask: Payload) -> TextStream:
        """Returns the answer as a stream; nothing is sent before it is read."""

    def _ask_of(self, prompt: str, model: str, fields: Mapping[str, Any]) -> Payload:
        """Returns the request for a prompt, here without a chat template. Raises InvalidRequest."""
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
        """Returns the answer to a prompt, with provider, tokens, cost and times."""
        return await self._answer(ask)

    @taking(_conversation)
    async def chat(self, ask: Payload) -> Answer:
        """Returns the answer to a conversation; its tool calls, if any, are in `message`."""
        return await self._answer(ask)

    @taking(_prompt)
    def stream(self, ask: Payload) -> TextStream:
        """Streams the answer to a prompt: `async for text in service.stream(...)`."""
        return self._stream(ask)

    @taking(_conversation)
    def stream_chat(self, ask: Payload) -> TextStream:
        """Streams the answer to a conversation."""
        return self._stream(ask)


class Retried(NamedTuple):
    """A request with its retry policy."""

    ask: Payload
    policy: RetryPolicy


class EndpointCalls(TextCalls):
    """TextCalls of one endpoint. All but `generate` take `retry=`."""

    def __init__(self, connection: Connection, default_model: str, retry: RetryPolicy) -> None:
        """retry: the policy of generate_with_retry."""
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
        """Returns the text of the answer; transient errors are retried, by default with 3 attempts 2 to 10 s apart."""
        answer = await self.complete(prompt, model, max_tokens, temperature, retry=retry or self._policy, **options)
        return answer.text

    @taking(_retried_prompt)
    async def complete(self, call: Retried) -> Answer:
        """Returns the answer to a prompt, with tokens, cost and times."""
        return await self._connection.answer(call.ask, call.policy)

    @taking(_retried_conversation)
    async def chat(self, call: Retried) -> Answer:
        """Returns the answer to a conversation; its tool calls, if any, are in `message`."""
        return await self._connection.answer(call.ask, call.policy)

    @taking(_retried_prompt)
    def stream(self, call: Retried) -> TextStream:
        """Streams the answer to a prompt: `async for text in service.stream(...)`."""
        return stream_of(self._connection, call.ask, call.policy)

    @taking(_retried_conversation)
    def stream_chat(self, call: Retried) -> TextStream:
        """Streams the answer to a conversation."""
        return stream_of(self._connection, call.ask, call.policy)
