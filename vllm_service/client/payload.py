"""Requests to models, and the reading of whole answers and chunks. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from vllm_service.domain.usage import Usage
from vllm_service.errors import InvalidRequest, UpstreamFailed

Json = dict[str, Any]
Message = Mapping[str, Any]

COMPLETIONS = "/completions"
CHAT = "/chat/completions"
DEFAULT_MAX_TOKENS = 500
DEFAULT_TEMPERATURE = 0.7
#: The headers that may have the provider's id of a request, the first one present counts.
REQUEST_IDS = ("x-request-id", "x-runpod-job-id")


@dataclass(frozen=True, slots=True)
class Payload:
    """A request to one model."""

    route: str
    model: str
    #: The body's `prompt` or `messages`.
    question: Json
    #: Further fields of the body, also the engine's own.
    options: Json

    @classmethod
    def completion(cls, prompt: str, model: str, options: Mapping[str, Any]) -> Payload:
        """Returns the request for a prompt, without a chat template. Raises InvalidRequest."""
        if not isinstance(prompt, str) or not prompt:
            raise InvalidRequest("prompt: expected text", param="prompt")
        return cls(COMPLETIONS, model, {"prompt": prompt}, dict(options))

    @classmethod
    def chat(cls, messages: Iterable[Message], model: str, options: Mapping[str, Any]) -> Payload:
        """Returns the request for a conversation. Raises InvalidRequest."""
        copied = [dict(message) for message in messages]
        if not copied:
            raise InvalidRequest("messages: expected at least one", param="messages")
        return cls(CHAT, model, {"messages": copied}, dict(options))

    def to(self, model: str) -> Self:
        """Returns the same request to another model."""
        return replace(self, model=model)

    @property
    def body(self) -> Json:
        """Returns the body for a whole answer."""
        return {"model": self.model, **self.question, **self.options}

    @property
    def stream_body(self) -> Json:
        """Returns the body for a stream that ends with the usage."""
        return {**self.body, "stream": True, "stream_options": {"include_usage": True}}


@dataclass(frozen=True, slots=True)
class Piece:
    """The content of one chunk: text, the reason of the end, the usage of the whole answer, or none of these."""

    text: str = ""
    finish_reason: str | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Whole:
    """The content of a whole answer."""

    text: str
    finish_reason: str | None
    usage: Usage | None
    #: The chat message as it came; None for a text completion.
    message: Mapping[str, Any] | None


def read_whole(document: object) -> Whole:
    """Returns the content of a completion. Raises UpstreamFailed, without quoting the document, for anything else."""
    choice = _first_choice(document)
    message = choice.get("message") if choice is not None else None
    text = None if choice is None else choice.get("text")
    if isinstance(message, Mapping):
        text = message.get("content") or ""
    if choice is None or not isinstance(text, str):
        raise UpstreamFailed("the answer is not an OpenAI completion")
    whole_message = message if isinstance(message, Mapping) else None
    return Whole(text, _text(choice.get("finish_reason")), read_usage(document), whole_message)


def read_piece(chunk: object) -> Piece:
    """Returns the content of a chunk. Raises UpstreamFailed for anything else."""
    if not isinstance(chunk, Mapping) or not isinstance(chunk.get("choices"), list):
        raise UpstreamFailed("a chunk of the stream is not an OpenAI completion's")
    choice = _first_choice(chunk)
    if choice is None:
        return Piece(usage=read_usage(chunk))
    delta = choice.get("delta")
    text = delta.get("content") if isinstance(delta, Mapping) else choice.get("text")
    return Piece(text if isinstance(text, str) else "", _text(choice.get("finish_reason")), read_usage(chunk))


def read_usage(document: object) -> Usage | None:
    """Returns the tokens as the provider counted them, or None if it sent no usage."""
    usage = document.get("usage") if isinstance(document, Mapping) else None
    if not isinstance(usage, Mapping):
        return None
    prompt = usage.get("prompt_tokens")
    completion = usage.get("completion_tokens", 0)
    if not isinstance(prompt, int) or not isinstance(completion, int):
        return None
    cached = _detail(usage.get("prompt_tokens_details"), "cached_tokens")
    return Usage(prompt, completion, cached, _detail(usage.get("completion_tokens_details"), "reasoning_tokens"))


def request_id(headers: Mapping[str, str]) -> str | None:
    """Returns the provider's id of a request, by which its support finds it; None where it sent none."""
    return next((headers[name] for name in REQUEST_IDS if name in headers), None)


def _first_choice(document: object) -> Mapping[str, Any] | None:
    choices = document.get("choices") if isinstance(document, Mapping) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        return None
    return choices[0]


def _detail(details: object, name: str) -> int:
    count = details.get(name) if isinstance(details, Mapping) else None
    return count if isinstance(count, int) else 0


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
