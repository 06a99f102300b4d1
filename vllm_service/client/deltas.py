"""The chunks of streams: their text, their tool calls and the rest, and the message that they make together. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vllm_service.client.payload import Choice, index_of, text_of
from vllm_service.domain.reported_usage import ReportedUsage, read_usage


@dataclass(frozen=True, slots=True)
class ToolCallPart:
    """A part of a tool call in a stream."""

    #: Tells the calls of one answer apart.
    index: int
    #: Both come with the first part of a call.
    id: str | None
    name: str | None
    #: A piece of the arguments' JSON.
    arguments: str


@dataclass(frozen=True, slots=True)
class Delta:
    """The part of one choice in a chunk of a stream."""

    #: The index of the choice; other than 0 only if `n` is above 1.
    choice: int = 0
    text: str = ""
    tool_calls: tuple[ToolCallPart, ...] = ()
    #: What a reasoning model writes before its answer.
    reasoning: str = ""
    refusal: str = ""
    finish_reason: str | None = None
    #: The choice as it came, with what has no member here, such as `logprobs`.
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def has_content(self) -> bool:
        """Returns whether it holds a part of the answer."""
        return bool(self.text or self.tool_calls or self.reasoning or self.refusal)


@dataclass(frozen=True, slots=True)
class Chunk:
    """The content of one chunk: parts of choices, and the usage of the whole answer, or neither."""

    deltas: tuple[Delta, ...] = ()
    usage: ReportedUsage | None = None


def read_chunk(chunk: object) -> Chunk:
    """Returns the content of a chunk. One without choices has usage at most."""
    # `dict`, not Mapping, whose check takes a part of a chunk's time that shows.
    if not isinstance(chunk, dict):
        return Chunk()
    choices = chunk.get("choices")
    parts = choices if isinstance(choices, list) else ()
    deltas = [_delta(one, place) for place, one in enumerate(parts) if isinstance(one, dict)]
    return Chunk(tuple(deltas), read_usage(chunk["usage"]) if "usage" in chunk else None)


def _delta(choice: Mapping[str, Any], place: int) -> Delta:
    delta = choice.get("delta")
    index, reason = index_of(choice, place), text_of(choice.get("finish_reason"))
    if not isinstance(delta, dict):
        return Delta(index, text_of(choice.get("text")) or "", finish_reason=reason, raw=choice)
    calls = delta.get("tool_calls")
    return Delta(
        index,
        text_of(delta.get("content")) or "",
        tuple([_call_part(call, number) for number, call in enumerate(calls)]) if isinstance(calls, list) else (),
        text_of(delta.get("reasoning_content")) or text_of(delta.get("reasoning")) or "",
        text_of(delta.get("refusal")) or "",
        reason,
        choice,
    )


def _call_part(call: object, place: int) -> ToolCallPart:
    fields = call if isinstance(call, Mapping) else {}
    function = fields.get("function")
    called = function if isinstance(function, Mapping) else {}
    arguments = text_of(called.get("arguments")) or ""
    return ToolCallPart(index_of(fields, place), text_of(fields.get("id")), text_of(called.get("name")), arguments)


@dataclass(slots=True)
class _ToolCall:
    """A tool call, as far as it has come."""

    id: str | None = None
    name: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)

    def add(self, part: ToolCallPart) -> None:
        self.id = self.id or part.id
        if part.name:
            self.name.append(part.name)
        self.arguments.append(part.arguments)

    def to_json(self) -> dict[str, Any]:
        function = {"name": "".join(self.name), "arguments": "".join(self.arguments)}
        return {"id": self.id, "type": "function", "function": function}


@dataclass(slots=True)
class _Choice:
    """One choice, as far as it has come."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    refusal: list[str] = field(default_factory=list)
    #: In the order in which they began.
    calls: list[_ToolCall] = field(default_factory=list)
    #: The last one of each index.
    by_index: dict[int, _ToolCall] = field(default_factory=dict)
    finish_reason: str | None = None

    def add(self, delta: Delta) -> None:
        if delta.text:
            self.text.append(delta.text)
        if delta.reasoning:
            self.reasoning.append(delta.reasoning)
        if delta.refusal:
            self.refusal.append(delta.refusal)
        for part in delta.tool_calls:
            self._call(part).add(part)
        self.finish_reason = delta.finish_reason or self.finish_reason

    def _call(self, part: ToolCallPart) -> _ToolCall:
        call = self.by_index.get(part.index)
        # Some providers send no index, so that every call has the same one; each has an id of its own.
        if call is None or (part.id is not None and call.id not in (None, part.id)):
            call = self.by_index[part.index] = _ToolCall()
            self.calls.append(call)
        return call

    def message(self) -> dict[str, Any]:
        """Returns the chat message that a whole answer would have."""
        text = "".join(self.text)
        message: dict[str, Any] = {"role": "assistant", "content": text if text or not self.calls else None}
        if self.reasoning:
            message["reasoning_content"] = "".join(self.reasoning)
        if self.refusal:
            message["refusal"] = "".join(self.refusal)
        if self.calls:
            message["tool_calls"] = [call.to_json() for call in self.calls]
        return message


class Assembly:
    """The choices of a stream, put together from its deltas."""

    def __init__(self, *, is_chat: bool) -> None:
        """is_chat: its choices have messages; those of a text completion have text alone."""
        self._is_chat = is_chat
        self._choices: dict[int, _Choice] = {}

    def add(self, delta: Delta) -> None:
        """Adds the next part."""
        choice = self._choices.get(delta.choice)
        if choice is None:
            choice = self._choices[delta.choice] = _Choice()
        choice.add(delta)

    def choices(self) -> list[Choice]:
        """Returns the choices in the order of their indices; an answer without content has one, which is empty."""
        choices = self._choices or {0: _Choice()}
        return [
            Choice(index, "".join(one.text), one.finish_reason, one.message() if self._is_chat else None)
            for index, one in sorted(choices.items())
        ]
