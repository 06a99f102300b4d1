"""Requests to models, and the reading of whole answers. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Self

from vllm_service.client.json_faults import fault_in
from vllm_service.domain.answers import Form
from vllm_service.domain.reported_usage import ReportedUsage, read_usage
from vllm_service.domain.usage import (
    TokenBounds,
    Usage,
    choices_of,
    counted,
    estimated_prompt_tokens,
    longest_answer_tokens,
)
from vllm_service.errors import InvalidRequest

Json = dict[str, Any]
Message = Mapping[str, Any]

COMPLETIONS = "/completions"
CHAT = "/chat/completions"
#: The headers that may have the provider's id of a request, the first one present counts.
REQUEST_IDS = ("x-request-id", "x-runpod-job-id")
#: The two names of the bound of an answer. No request has both.
BOUNDS = ("max_tokens", "max_completion_tokens")


class OwnTokens(int):
    """A bound that a RunPod endpoint gets where the caller gives none; an equal number of the caller's is another."""

    __slots__ = ()


class OwnTemperature(float):
    """A temperature that a RunPod endpoint gets where the caller gives none."""

    __slots__ = ()


DEFAULT_MAX_TOKENS = OwnTokens(500)
DEFAULT_TEMPERATURE = OwnTemperature(0.7)


def given(fields: Mapping[str, Any], *, has_defaults: bool) -> Json:
    """Returns the fields of a request that are to be sent: None is left out. Raises InvalidRequest for two bounds.

    has_defaults: whether the defaults of the documented interface are sent, which is so at RunPod's own endpoints.
    """
    sent = {name: value for name, value in fields.items() if value is not None}
    if all(name in sent for name in BOUNDS) and sent["max_tokens"] is DEFAULT_MAX_TOKENS:
        del sent["max_tokens"]
    if not has_defaults:
        sent = {name: value for name, value in sent.items() if not isinstance(value, OwnTokens | OwnTemperature)}
    if all(name in sent for name in BOUNDS):
        raise InvalidRequest("max_tokens, max_completion_tokens: expected one of them, got both", param="max_tokens")
    return sent


def encoded(value: object, name: str) -> bytes:
    """Returns the value's JSON. Raises InvalidRequest, which names the part that is no JSON and quotes nothing."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)
        return text.encode()
    except Exception:  # also those of a value's own methods
        fault = fault_in(value, name)
    raise InvalidRequest(f"{fault.path}: {fault.reason}", param=fault.path)


@dataclass(frozen=True, slots=True)
class Payload:
    """A request to one model, which can be written as JSON."""

    route: str
    model: str
    #: The body's `prompt` or `messages`.
    question: Json
    #: Further fields of the body, also the engine's own.
    options: Json
    #: The JSON of the question's value, and of the options.
    question_json: bytes = field(repr=False)
    options_json: bytes = field(repr=False)
    #: `stream` and `stream_options` of the caller, which the kind of the call decides.
    streaming: Json = field(default_factory=dict)

    @classmethod
    def completion(cls, prompt: str, model: str, options: Mapping[str, Any]) -> Payload:
        """Returns the request for a prompt, without a chat template. Raises InvalidRequest."""
        if not isinstance(prompt, str) or not prompt:
            raise InvalidRequest("prompt: expected text", param="prompt")
        return cls._of(COMPLETIONS, model, "prompt", prompt, options)

    @classmethod
    def chat(cls, messages: Iterable[Message], model: str, options: Mapping[str, Any]) -> Payload:
        """Returns the request for a conversation. Raises InvalidRequest."""
        if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Iterable):
            raise InvalidRequest("messages: expected a list of messages", param="messages")
        copied = [_message(message, index) for index, message in enumerate(messages)]
        if not copied:
            raise InvalidRequest("messages: expected at least one", param="messages")
        return cls._of(CHAT, model, "messages", copied, options)

    @classmethod
    def _of(cls, route: str, model: str, name: str, question: object, options: Mapping[str, Any]) -> Payload:
        if not isinstance(model, str) or not model:
            raise InvalidRequest("model: expected a name", param="model")
        encoded(model, "model")
        kept = {key: value for key, value in options.items() if key not in ("stream", "stream_options")}
        streaming = {key: value for key, value in options.items() if key not in kept}
        return cls(route, model, {name: question}, kept, encoded(question, name), _options_json(kept), streaming)

    def to(self, model: str) -> Self:
        """Returns the same request to another model."""
        return replace(self, model=model)

    @property
    def body(self) -> Json:
        """Returns the body for a whole answer."""
        return {"model": self.model, **self.question, **self.options}

    @property
    def choices(self) -> object:
        """Returns how many answers are requested, as the caller gave it; 1 without."""
        return self.options.get("n", 1)

    @property
    def number_of_choices(self) -> int:
        """Returns how many answers a stream has; 1 if the caller gave no number."""
        return self.choices if isinstance(self.choices, int) and self.choices > 0 else 1

    @property
    def bounds(self) -> TokenBounds:
        """Returns the most that the request can use."""
        options = self.options
        body = self.plain_json()
        choices = choices_of((_number(options.get("n")), _number(options.get("best_of"))))
        names = BOUNDS if self.route == CHAT else BOUNDS[:1]
        longest = longest_answer_tokens(tuple(_number(options.get(name)) for name in names), choices)
        return TokenBounds(body, estimated_prompt_tokens(body, self.question_json), longest, choices)

    def counted(self, reported: ReportedUsage | None, answer_tokens: Callable[[], int]) -> Usage | None:
        """Returns the tokens of an answer to this request; None if the provider's usage says nothing.

        answer_tokens: estimates those of the answer, for a usage that lacks them.
        """
        return None if reported is None else counted(reported, self.bounds, answer_tokens)

    @property
    def form(self) -> Form:
        """Returns the form of the answer."""
        return Form.CHAT if self.route == CHAT else Form.COMPLETIONS

    def content(self) -> bytes:
        """Returns the body's JSON for a whole answer. Raises InvalidRequest for `stream=True`."""
        if self.streaming.get("stream"):
            raise InvalidRequest("stream: this call returns a whole answer; use stream or stream_chat", param="stream")
        return self.plain_json()

    def plain_json(self) -> bytes:
        """Returns the body's JSON without what makes it a stream."""
        return self._json(self.options_json)

    def stream_content(self, *, has_usage: bool = True) -> bytes:
        """Returns the body's JSON for a stream, which ends with the usage if has_usage. Raises InvalidRequest."""
        callers = self.streaming.get("stream_options", {})
        if not isinstance(callers, Mapping):
            raise InvalidRequest("stream_options: expected an object", param="stream_options")
        options = {**callers, **({"include_usage": True} if has_usage else {})}
        streaming = encoded({"stream": True, **({"stream_options": options} if options else {})}, "options")
        return self._json(b"{%b,%b" % (self.options_json[1:-1], streaming[1:]) if self.options else streaming)

    def _json(self, options: bytes) -> bytes:
        name = next(iter(self.question))
        head = b'{"model":%b,"%b":%b' % (encoded(self.model, "model"), name.encode(), self.question_json)
        return b"%b,%b" % (head, options[1:]) if len(options) > 2 else head + b"}"


def _options_json(options: Mapping[str, Any]) -> bytes:
    """Returns the JSON of all options. An error names the option, not the whole of them."""
    try:
        return encoded(options, "options")
    except InvalidRequest:
        for name, value in options.items():
            encoded(value, name)
        raise


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) else None


def _message(message: object, index: int) -> Json:
    if isinstance(message, Mapping):
        return dict(message)
    if callable(dumped := getattr(message, "model_dump", None)):  # a message of the SDK, such as an earlier answer
        return dict(dumped(mode="json", exclude_unset=True))
    raise InvalidRequest(f"messages[{index}]: expected a message, got {type(message).__name__}", param="messages")


def _plain(value: object) -> object:
    """Returns what is written for a value that is not JSON itself: mappings, times and pydantic's models are known."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if callable(dumped := getattr(value, "model_dump", None)):
        return dumped(mode="json", exclude_unset=True, by_alias=True)
    raise TypeError


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the answers to a request with `n`."""

    index: int
    text: str
    finish_reason: str | None = None
    #: The chat message as it came, with its tool calls; None for a text completion.
    message: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Whole:
    """The content of a whole answer."""

    text: str
    finish_reason: str | None
    #: What the provider reported; None if it says nothing.
    usage: ReportedUsage | None
    #: The chat message as it came; None for a text completion.
    message: Mapping[str, Any] | None
    #: The further choices.
    others: tuple[Choice, ...] = ()


def read_whole(document: Mapping[str, Any]) -> Whole:
    """Returns the content of a completion, which has been judged to be one."""
    first, *others = [_choice(one, place) for place, one in enumerate(document["choices"])]
    return Whole(first.text, first.finish_reason, read_usage(document.get("usage")), first.message, tuple(others))


def request_id(headers: Mapping[str, str]) -> str | None:
    """Returns the provider's id of a request, by which its support finds it; None where it sent none."""
    return next((headers[name] for name in REQUEST_IDS if name in headers), None)


def _choice(choice: Mapping[str, Any], place: int) -> Choice:
    message = choice.get("message")
    kept = message if isinstance(message, Mapping) else None
    text = _text_in(kept.get("content")) if kept is not None else text_of(choice.get("text"))
    return Choice(index_of(choice, place), text or "", text_of(choice.get("finish_reason")), kept)


def _text_in(content: object) -> str | None:
    """Returns a message's text, which some models write in parts."""
    if not isinstance(content, list):
        return text_of(content)
    parts = [text_of(part.get("text")) for part in content if isinstance(part, Mapping)]
    return "".join(part for part in parts if part)


def index_of(fields: Mapping[str, Any], place: int) -> int:
    """Returns the index of a choice or a tool call; its place in the list if it has none."""
    index = fields.get("index")
    return index if isinstance(index, int) and not isinstance(index, bool) else place


def text_of(value: object) -> str | None:
    """Returns the value if it is text."""
    return value if isinstance(value, str) else None
