"""TextCalls: the calls that all clients share, from prompts and conversations to texts, answers and streams.

A client implements how it gets an answer and a stream; the calls, their arguments and defaults are here. `**options`
of a call go into the request unchanged, and what is None is left out of it. Nothing is sent that was not given, but for
the documented defaults of an own endpoint (EndpointCalls).

The arguments of several calls are written once, as a function that makes a request of them. `taking(arguments)` gives a
method those arguments, which type checkers and editors show for it; the method itself gets the request.
"""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar, cast

from vllm_service.client.boundary import raises_ours
from vllm_service.client.connection import Connection
from vllm_service.client.payload import DEFAULT_MAX_TOKENS, DEFAULT_TEMPERATURE, Message, Payload, given
from vllm_service.client.results import Answer
from vllm_service.client.settings import ONE_ATTEMPT, RetryPolicy
from vllm_service.client.streams import TextStream, stream_of
from vllm_service.errors import InvalidRequest

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

        signed = _signed(call, made.__init__, method)
        signed.__annotations__ = {"return": None}  # the class itself checks its arguments
        return cast("Callable[Concatenate[S, P], None]", signed)

    return sign


def _signed(call: Any, arguments: Callable[..., Any], method: Callable[..., Any]) -> Any:
    """Sets what `help` and `inspect` show: name and description of the method, parameters of `arguments`."""
    functools.update_wrapper(call, method)
    returned = inspect.signature(method).return_annotation
    call.__signature__ = inspect.signature(arguments).replace(return_annotation=returned)
    call.__annotations__ = {**arguments.__annotations__, "return": returned}
    return call


def with_one_text(ask: Payload, name: str) -> Payload:
    """Returns the request. Raises InvalidRequest if it is for several choices: the call returns one text."""
    if ask.choices != 1:
        raise InvalidRequest(f"n: {name} returns one text; use complete, whose answer has all choices", param="n")
    return ask


@raises_ours
class TextCalls(ABC):
    """The text calls of an application, independent of the provider. Every call raises ServiceError."""

    def __init__(self, default_model: str, *, has_defaults: bool = False) -> None:
        """has_defaults: whether the documented defaults of max_tokens and temperature are sent."""
        self.default_model = default_model
        self._has_defaults = has_defaults

    @abstractmethod
    async def _answer(self, ask: Payload) -> Answer:
        """Returns the whole answer. Raises ServiceError."""

    @abstractmethod
    def _stream(self, ask: Payload) -> TextStream:
        """Returns the answer as a stream; nothing is sent before it is read."""

    def _ask_of(self, prompt: str, model: str, fields: Mapping[str, Any]) -> Payload:
        """Returns the request for a prompt, here without a chat template. Raises InvalidRequest."""
        return Payload.completion(prompt, model, fields)

    def _given(self, max_tokens: int | None, temperature: float | None, options: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the fields that are sent. Raises InvalidRequest."""
        fields = {"max_tokens": max_tokens, "temperature": temperature, **options}
        return given(fields, has_defaults=self._has_defaults)

    def _prompt(
        self,
        /,
        prompt: str,
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        **options: Any,
    ) -> Payload:
        return self._ask_of(prompt, model or self.default_model, self._given(max_tokens, temperature, options))

    def _conversation(
        self,
        /,
        messages: Iterable[Message],
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        **options: Any,
    ) -> Payload:
        return Payload.chat(messages, model or self.default_model, self._given(max_tokens, temperature, options))

    @taking(_prompt)
    async def generate(self, ask: Payload) -> str:
        """Returns the text of the answer to a prompt."""
        return (await self._answer(with_one_text(ask, "generate"))).text

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


@raises_ours
class EndpointCalls(TextCalls):
    """TextCalls of one endpoint. All but `generate` take `retry=`.

    RunPod's own endpoint gets the documented max_tokens and temperature where a call gives none; other servers do not.
    """

    def __init__(self, connection: Connection, default_model: str, retry: RetryPolicy, *, is_runpod: bool) -> None:
        """retry: the policy of generate_with_retry. is_runpod: whether the server is an endpoint of RunPod's."""
        super().__init__(default_model, has_defaults=is_runpod)
        self._connection = connection
        self._policy = retry

    async def _answer(self, ask: Payload) -> Answer:
        return await self._connection.answer(ask, ONE_ATTEMPT)

    def _stream(self, ask: Payload) -> TextStream:
        return stream_of(self._connection, ask, ONE_ATTEMPT)

    def _own_prompt(
        self,
        /,
        prompt: str,
        model: str | None = None,
        max_tokens: int | None = DEFAULT_MAX_TOKENS,
        temperature: float | None = DEFAULT_TEMPERATURE,
        **options: Any,
    ) -> Payload:
        return self._prompt(prompt, model, max_tokens, temperature, **options)

    @taking(_own_prompt)
    async def generate(self, ask: Payload) -> str:
        """Returns the text of the answer to a prompt."""
        return (await self._answer(with_one_text(ask, "generate"))).text

    def _retried_prompt(
        self,
        /,
        prompt: str,
        model: str | None = None,
        max_tokens: int | None = DEFAULT_MAX_TOKENS,
        temperature: float | None = DEFAULT_TEMPERATURE,
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
        max_tokens: int | None = DEFAULT_MAX_TOKENS,
        temperature: float | None = DEFAULT_TEMPERATURE,
        *,
        retry: RetryPolicy = ONE_ATTEMPT,
        **options: Any,
    ) -> Retried:
        return Retried(self._conversation(messages, model, max_tokens, temperature, **options), retry)

    def _several_attempts(
        self,
        /,
        prompt: str,
        model: str | None = None,
        max_tokens: int | None = DEFAULT_MAX_TOKENS,
        temperature: float | None = DEFAULT_TEMPERATURE,
        *,
        retry: RetryPolicy | None = None,
        **options: Any,
    ) -> Retried:
        return Retried(self._prompt(prompt, model, max_tokens, temperature, **options), retry or self._policy)

    @taking(_several_attempts)
    async def generate_with_retry(self, call: Retried) -> str:
        """Returns the text of the answer; transient errors are retried, by default with 3 attempts 2 to 10 s apart."""
        return (await self._connection.answer(with_one_text(call.ask, "generate_with_retry"), call.policy)).text

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
