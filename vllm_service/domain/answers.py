"""Decides what a provider's answer is: an answer, an error that came with status 200, an unfinished one, or none.

Pure, and the only place for this: the gateway and the client judge whole answers by `judge_whole` and streams by
domain/event_stream.py, which reads each event by `read_event`. docs/verdicts.md has the rules as a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple, TypeGuard, TypeVar

import msgspec

from vllm_service.domain.in_band_errors import encoded, error_object, error_status, is_error, loaded_error, strict_json

Raw = msgspec.Raw
_NONE = Raw(b"")
#: JSON that says nothing. `"error": null` is no error, and `"content": ""` is no content.
_EMPTY = frozenset({b"", b"null", b"false", b"0", b'""', b"{}", b"[]"})
_LONGEST_EMPTY_BYTES = 16
Shape = TypeVar("Shape")


class Form(StrEnum):
    """The form of an answer, by the operation that was requested."""

    CHAT = "chat.completions"
    COMPLETIONS = "completions"
    RESPONSES = "responses"
    EMBEDDINGS = "embeddings"


class Verdict(StrEnum):
    """The verdicts on an answer with status 200."""

    ANSWER = "answer"
    #: An error in place of an answer, or within it.
    ERROR = "error"
    #: A stream that ended before its answer did.
    INCOMPLETE = "incomplete"
    NOT_AN_ANSWER = "not an answer"


class Judgement(msgspec.Struct, frozen=True, gc=False):
    """A verdict and its reason."""

    verdict: Verdict
    #: What is wrong, as the rest of a sentence; quotes nothing of the answer.
    reason: str = ""
    #: The status that an error means; 0 if it names none. 429 or 400 are to be treated as if they had been the status.
    status: int = 0
    #: An error's document, with the member `error`, as the body of an error status has it.
    document: bytes = b""
    #: The usage of a whole answer, as JSON of whatever kind it came as; empty if it has none. Not copied.
    usage: bytes = b""


class EventReading(NamedTuple):
    """The content of one event of a stream."""

    #: An error, or what is no event of such an answer; None for all others.
    fault: Judgement | None = None
    #: Whether a caller would see something of the answer in it: text, a tool call, reasoning.
    has_content: bool = False
    #: The choices whose finish reason it has, by index.
    finished: tuple[int, ...] = ()
    #: Whether it is the last event of the answer: [DONE], or a response that is complete.
    is_last: bool = False
    #: Whether it is a part of an answer at all, with or without content.
    is_part: bool = False
    #: The usage, as JSON; empty if it has none.
    usage: bytes = b""
    #: Whether it holds usage and no choices.
    is_only_usage: bool = False
    #: Whether it holds nothing at all. SDKs fail at an event without data, and their callers at one without choices.
    is_blank: bool = False


ANSWER = Judgement(Verdict.ANSWER)
# Python looks a member up at its Enum's class slowly, and each answer and each event is compared with these.
IS_ANSWER = Verdict.ANSWER
_FOR_CHAT = Form.CHAT
_FOR_COMPLETIONS = Form.COMPLETIONS
FOR_RESPONSES = Form.RESPONSES
DONE = EventReading(is_last=True)
BLANK = EventReading(is_blank=True)


class _Document(msgspec.Struct, gc=False):
    """The members that every answer may have."""

    error: Raw = _NONE
    usage: Raw = _NONE


class _Message(msgspec.Struct, gc=False):
    content: str | list[Raw] | None = None


class _ChatChoice(msgspec.Struct, gc=False):
    message: _Message
    finish_reason: str | None = None
    #: Some providers put an error here when one has begun to answer.
    error: Raw = _NONE


class _Chat(_Document):
    choices: list[_ChatChoice] | None = None


class _TextChoice(msgspec.Struct, gc=False):
    text: str
    finish_reason: str | None = None
    error: Raw = _NONE


class _Text(_Document):
    choices: list[_TextChoice] | None = None


class _ChunkChoice(msgspec.Struct, gc=False):
    index: int | float | None = 0
    delta: dict[str, Raw] | None = None
    text: Raw = _NONE
    finish_reason: str | None = None
    error: Raw = _NONE


class _Chunk(_Document):
    choices: list[_ChunkChoice] | None = None


class _Item(msgspec.Struct):
    type: Raw = _NONE


class _Response(_Document):
    status: Raw = _NONE
    output: list[_Item] | None = None


class _Vector(msgspec.Struct):
    embedding: Raw = _NONE


class _Embeddings(_Document):
    data: list[_Vector] | None = None


class _ResponseEvent(_Document):
    type: str = ""
    response: _Document | None = None


_chat = msgspec.json.Decoder(_Chat)
_text = msgspec.json.Decoder(_Text)
_chunk = msgspec.json.Decoder(_Chunk)
_response = msgspec.json.Decoder(_Response)
_embeddings = msgspec.json.Decoder(_Embeddings)
_response_event = msgspec.json.Decoder(_ResponseEvent)


def judge_whole(form: Form, document: bytes) -> Judgement:
    """Returns the judgement of an answer that came in one piece. Members that are not needed for it are not decoded."""
    try:
        if form is _FOR_CHAT:
            return _judge_choices(_read(_chat, document), document)
        if form is _FOR_COMPLETIONS:
            return _judge_choices(_read(_text, document), document)
        return _judge_response(document) if form is FOR_RESPONSES else _judge_embeddings(document)
    except msgspec.ValidationError:
        return _judge_other(document, "has a member of another type than an answer has")
    except ValueError:
        if document.lstrip().startswith((b"data:", b"event:", b":")):
            return Judgement(Verdict.NOT_AN_ANSWER, "answered with a stream that was not requested")
        return Judgement(Verdict.NOT_AN_ANSWER, "answered with what is not a JSON object")


def read_event(form: Form, name: bytes, data: bytes) -> EventReading:
    """Returns what one event holds. name: its `event:` line; empty if it has none."""
    if data.startswith(b"[DONE]"):
        return DONE
    if name == b"error":
        return EventReading(_error_of(data))
    if not data:
        return BLANK
    try:
        return _read_response_event(name, data) if form is FOR_RESPONSES else _read_chunk(form, data)
    except msgspec.ValidationError:
        return EventReading(_judge_other(data, "sent an event that is no part of an answer"))
    except ValueError:
        return EventReading(Judgement(Verdict.NOT_AN_ANSWER, "sent an event that is not a JSON object"))


def _judge_choices(answer: _Chat | _Text, document: bytes) -> Judgement:
    if answer.error is not _NONE and not _is_empty(answer.error):
        return _error_of(document)
    choices = answer.choices
    if not choices:
        return _judge_other(document, "answered without choices")
    for choice in choices:
        if choice.error is not _NONE or choice.finish_reason == "error":
            fault = _choice_error(choice)
            if fault is not None:
                return fault
    usage = answer.usage
    return ANSWER if usage is _NONE else Judgement(IS_ANSWER, "", 0, b"", usage)


def _judge_response(document: bytes) -> Judgement:
    answer = _read(_response, document)
    if (answer.error and not _is_empty(answer.error)) or bytes(answer.status) == b'"failed"':
        return _error_of(document)
    if answer.output is None:
        return _judge_other(document, "answered without output")
    return Judgement(IS_ANSWER, "", 0, b"", answer.usage)


def _judge_embeddings(document: bytes) -> Judgement:
    answer = _read(_embeddings, document)
    if answer.error and not _is_empty(answer.error):
        return _error_of(document)
    if not answer.data or any(bytes(vector.embedding)[:1] not in (b"[", b'"') for vector in answer.data):
        return _judge_other(document, "answered without embeddings")
    return Judgement(IS_ANSWER, "", 0, b"", answer.usage)


def _read_chunk(form: Form, data: bytes) -> EventReading:
    chunk = _read(_chunk, data)
    if chunk.error and not _is_empty(chunk.error):
        return EventReading(_error_of(data))
    usage = _object(chunk.usage)
    if not chunk.choices:
        fault = None if usage else _flat_error(data)
        is_blank = chunk.choices is None and fault is None and not usage
        return EventReading(fault, usage=usage, is_only_usage=bool(usage), is_blank=is_blank)
    has_content, finished = False, []
    for choice in chunk.choices:
        fault = _choice_error(choice)
        if fault is not None:
            return EventReading(fault)
        has_content = has_content or _has_content(form, choice)
        if choice.finish_reason:  # some providers write "" into every chunk
            finished.append(int(choice.index or 0))
    return EventReading(None, has_content, tuple(finished), is_part=True, usage=usage)


def _read_response_event(name: bytes, data: bytes) -> EventReading:
    event = _read(_response_event, data)
    kind = event.type or name.decode("utf-8", "replace")
    inner = event.response or _Document()
    if kind in ("error", "response.failed"):
        return EventReading(_error_of(data))
    if any(error and not _is_empty(error) for error in (event.error, inner.error)):
        return EventReading(_error_of(data))
    is_part = kind.startswith("response.")
    # These only announce what is to come.
    announces = kind.endswith((".created", ".queued", ".in_progress", ".added"))
    return EventReading(
        None if is_part else _flat_error(data),
        has_content=is_part and not announces,
        is_last=kind in ("response.completed", "response.incomplete"),
        is_part=is_part,
        usage=_object(inner.usage) or _object(event.usage),
    )


def _has_content(form: Form, choice: _ChunkChoice) -> bool:
    if form is not _FOR_CHAT:
        return not _is_empty(choice.text)
    return choice.delta is not None and any(
        name != "role" and not _is_empty(value) for name, value in choice.delta.items()
    )


def _choice_error(choice: _ChatChoice | _TextChoice | _ChunkChoice) -> Judgement | None:
    if not _is_empty(choice.error):
        return _error_of(b'{"error":%b}' % bytes(choice.error))
    if choice.finish_reason == "error":
        return Judgement(Verdict.ERROR, "ended the answer with an error", document=b'{"error":{}}')
    return None


def _error_of(document: bytes) -> Judgement:
    """Returns the judgement of a document that holds an error, or is one."""
    try:
        around = loaded_error(document)
    except ValueError:  # an event `error` may hold any text
        return Judgement(Verdict.ERROR, "failed", document=b'{"error":{}}')
    return Judgement(Verdict.ERROR, "failed", error_status(around), encoded({"error": error_object(around)}))


def _judge_other(document: bytes, reason: str) -> Judgement:
    """Returns the judgement of a document that is no answer: an error if it is worded as one."""
    return _flat_error(document) or Judgement(Verdict.NOT_AN_ANSWER, reason)


def _flat_error(document: bytes) -> Judgement | None:
    """Returns the judgement of an error without a member `error`, or beside members of the wrong type; else None."""
    try:
        members = loaded_error(document)
    except ValueError:
        return None
    if is_error(members):
        return _error_of(document)
    choices = members.get("choices") if isinstance(members, Mapping) else None
    errors = [choice.get("error") for choice in choices if isinstance(choice, Mapping)] if _is_list(choices) else []
    return next((_error_of(encoded({"error": error})) for error in errors if error), None)


def _is_list(value: object) -> TypeGuard[list[object]]:
    return isinstance(value, list)


def _read(decoder: msgspec.json.Decoder[Shape], document: bytes) -> Shape:
    """Raises ValidationError for what has another shape, another ValueError for what is not JSON."""
    try:
        return decoder.decode(document)
    except msgspec.ValidationError:
        raise
    except (ValueError, RecursionError):
        return decoder.decode(strict_json(document))


def _is_empty(raw: Raw) -> bool:
    if len(raw) > _LONGEST_EMPTY_BYTES:
        return False
    document = bytes(raw)
    return document in _EMPTY or (document[:1] in (b"{", b"[") and not document[1:-1].strip())


def _object(raw: Raw) -> bytes:
    """Returns the JSON if it is an object, else nothing."""
    document = bytes(raw)
    return document if document.startswith(b"{") else b""
