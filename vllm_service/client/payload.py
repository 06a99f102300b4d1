"""What is asked of a model: a route and a body; and what is read from the whole answer or from its chunks. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from vllm_service.domain.usage import Usage
from vllm_service.errors import InvalidRequest, UpstreamFailed

Json = dict[str, Any]
Message = Mapping[str, Any]

COMPLETIONS, CHAT = "/completions", "/chat/completions"
DEFAULT_MAX_TOKENS, DEFAULT_TEMPERATURE = 500, 0.7
REQUEST_IDS = ("x-request-id", "x-runpod-job-id")


@dataclass(frozen=True, slots=True)
class Payload:
    """A request to one model. `options` are further fields of the body, the engine's own among them."""

    route: str
    model: str
    question: Json
    options: Json

    @classmethod
    def completion(cls, prompt: str, model: str, options: Mapping[str, Any]) -> Payload:
        """A prompt as it is, without a chat template. Raises InvalidRequest."""
        if not isinstance(prompt, str) or not prompt:
            raise InvalidRequest("prompt: expected text", param="prompt")
        return cls(COMPLETIONS, model, {"prompt": prompt}, dict(options))

    @classmethod
    def chat(cls, messages: Iterable[Message], model: str, options: Mapping[str, Any]) -> Payload:
        """A conversation. Raises InvalidRequest."""
        said = [dict(message) for message in messages]
        if not said:
            raise InvalidRequest("messages: expected at least one", param="messages")
        return cls(CHAT, model, {"messages": said}, dict(options))

    def to(self, model: str) -> Self:
        """The same, asked of another model."""
        return replace(self, model=model)

    @property
    def body(self) -> Json:
        """What is sent, for an answer that comes whole."""
        return {"model": self.model, **self.question, **self.options}

    @property
    def stream_body(self) -> Json:
        """What is sent, for an answer that comes in pieces, its usage last."""
        return {**self.body, "stream": True, "stream_options": {"include_usage": True}}


@dataclass(frozen=True, slots=True)
class Piece:
    """What one chunk adds: text, the reason of the end, the tokens of it all; or nothing of these."""

    text: str = ""
    finish_reason: str | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Whole:
    """What a whole answer holds. `message` is the chat message as it came."""

    text: str
    finish_reason: str | None
    usage: Usage | None
    message: Mapping[str, Any] | None


def read_whole(document: object) -> Whole:
    """Raises UpstreamFailed for what is no completion; it does not quote it."""
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
    """Raises UpstreamFailed for what is no chunk of a completion."""
    if not isinstance(chunk, Mapping) or not isinstance(chunk.get("choices"), list):
        raise UpstreamFailed("a chunk of the stream is not one of an OpenAI completion")
    choice = _first_choice(chunk)
    if choice is None:
        return Piece(usage=read_usage(chunk))
    delta = choice.get("delta")
    text = delta.get("content") if isinstance(delta, Mapping) else choice.get("text")
    return Piece(text if isinstance(text, str) else "", _text(choice.get("finish_reason")), read_usage(chunk))


def read_usage(document: object) -> Usage | None:
    """The tokens, as the provider counted them; None where it did not."""
    usage = document.get("usage") if isinstance(document, Mapping) else None
    if not isinstance(usage, Mapping):
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens", 0)
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
