"""The usage in providers' answers, as they write it: OpenAI's two vocabularies, read without the rest of the answer."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from vllm_service.domain.token_estimates import MOST_TOKENS
from vllm_service.domain.usage import Usage


class _Details(msgspec.Struct):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None


class _Response(msgspec.Struct):
    usage: _Usage | None = None


class _Answer(msgspec.Struct):
    usage: _Usage | None = None
    response: _Response | None = None
    choices: msgspec.Raw = msgspec.Raw(b"")


_decoder = msgspec.json.Decoder(_Answer)
_lenient = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Found(NamedTuple):
    """usage: None where there is none. is_only_usage: nothing else is in it (`choices` is empty)."""

    usage: Usage | None
    is_only_usage: bool


def usage_in(document: bytes) -> Usage | None:
    """Of a whole answer; None where it names none. Raises ValueError: this is not a JSON object."""
    try:
        return _usage_of(_decoder.decode(document))
    except msgspec.ValidationError:
        return _usage_of(_read(document))


def find_usage(document: bytes) -> Found:
    """Of one event's data. Raises ValueError: this is not a JSON object."""
    answer = _read(document)
    choices = bytes(answer.choices)
    return Found(_usage_of(answer), len(choices) <= 16 and choices[1:-1].strip() == b"" != choices)


def _read(document: bytes) -> _Answer:
    try:
        return _decoder.decode(document)
    except msgspec.ValidationError:
        _lenient.decode(document)  # an object, only with usage of another shape
        return _Answer()


def _usage_of(answer: _Answer) -> Usage | None:
    """In our words. Details that contradict the totals are cut to them. None for more than any answer can have.

    Such a number would use up an organisation's month, and no database would take its row.
    """
    usage = answer.usage
    if usage is None:
        usage = None if answer.response is None else answer.response.usage
        if usage is None:
            return None
    prompt = usage.prompt_tokens or usage.input_tokens or 0
    completion = usage.completion_tokens or usage.output_tokens or 0
    if prompt > MOST_TOKENS or completion > MOST_TOKENS:
        return None
    read = usage.prompt_tokens_details or usage.input_tokens_details
    written = usage.completion_tokens_details or usage.output_tokens_details
    if prompt < 0 or completion < 0 or read or written:
        return _with_details(max(0, prompt), max(0, completion), read, written)
    return Usage(prompt, completion)


def _with_details(prompt: int, completion: int, read: _Details | None, written: _Details | None) -> Usage:
    cached = (read.cached_tokens or 0) if read else 0
    reasoning = (written.reasoning_tokens or 0) if written else 0
    return Usage(prompt, completion, min(max(0, cached), prompt), min(max(0, reasoning), completion))
