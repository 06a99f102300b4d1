"""The counts in a provider's usage object, whatever its kind; domain/usage.py reads the usual ones in fewer steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

#: The highest bound on one answer, whatever a caller writes; the OpenAPI document names the same maximum.
MOST_TOKENS = 10**9


class UsageFields(msgspec.Struct):
    """A usage object, unread, by the names of chat and completions, and by those of responses (`input_...`)."""

    prompt_tokens: Any = None
    completion_tokens: Any = None
    total_tokens: Any = None
    input_tokens: Any = None
    output_tokens: Any = None
    prompt_tokens_details: Any = None
    completion_tokens_details: Any = None
    input_tokens_details: Any = None
    output_tokens_details: Any = None


class ReportedUsage(msgspec.Struct, frozen=True, gc=False):
    """The counts in a provider's usage object, each read on its own. None: the object has no such count."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    #: Whether a member holds a number that no count of tokens can be.
    is_implausible: bool = False

    def after(self, earlier: ReportedUsage | None) -> ReportedUsage:
        """Returns these counts, with those of an earlier event of the stream where this one has none."""
        if earlier is None:
            return self
        return ReportedUsage(
            self.prompt_tokens or earlier.prompt_tokens,
            self.completion_tokens or earlier.completion_tokens,
            self.total_tokens or earlier.total_tokens,
            self.cached_tokens or earlier.cached_tokens,
            self.reasoning_tokens or earlier.reasoning_tokens,
            self.is_implausible or earlier.is_implausible,
        )


def read_usage(usage: object) -> ReportedUsage | None:
    """Returns the counts in a usage object, which may be parsed JSON of any kind; None if it says nothing.

    Zeros say nothing: no request has a prompt without tokens.
    """
    if not isinstance(usage, UsageFields):
        if not isinstance(usage, Mapping):
            return None
        usage = msgspec.convert({name: usage.get(name) for name in UsageFields.__struct_fields__}, UsageFields)
    prompt = _count(usage.prompt_tokens)
    if not prompt and usage.input_tokens is not None:
        prompt = _count(usage.input_tokens)
    completion = _count(usage.completion_tokens)
    if not completion and usage.output_tokens is not None:
        completion = _count(usage.output_tokens)
    total = _count(usage.total_tokens)
    if not prompt and not completion and not total:
        return None
    of_prompt = usage.prompt_tokens_details or usage.input_tokens_details
    of_completion = usage.completion_tokens_details or usage.output_tokens_details
    cached = _detail(of_prompt, "cached_tokens") if of_prompt else None
    reasoning = _detail(of_completion, "reasoning_tokens") if of_completion else None
    if _NO_COUNT not in (prompt, completion, total, cached, reasoning):
        return ReportedUsage(prompt, completion, total, cached, reasoning)
    return ReportedUsage(
        _possible(prompt), _possible(completion), _possible(total), _possible(cached), _possible(reasoning), True
    )


_decoder = msgspec.json.Decoder(UsageFields)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


def any_usage_of(document: bytes) -> ReportedUsage | None:
    """Returns the counts in the JSON of a usage object of any kind; see usage.usage_of."""
    try:
        return read_usage(_decoder.decode(document))
    except msgspec.ValidationError:  # not an object, or a number of more digits than can be read
        return read_usage(_each(document))
    except ValueError:
        return None


def _each(document: bytes) -> Mapping[str, object]:
    """Returns the members that are read, each decoded on its own; none of what is not an object."""
    try:
        members = _members.decode(document)
    except ValueError:
        return {}
    return {name: _value(members[name]) for name in UsageFields.__struct_fields__ if name in members}


def _value(document: msgspec.Raw) -> object:
    try:
        return msgspec.json.decode(document)
    except msgspec.ValidationError:  # without a type to keep to, only a number that is too long is invalid
        return math.inf


# Stands for a number that no count of tokens can be: below 0, or above MOST_TOKENS.
_NO_COUNT = -1
#: Texts of more digits are not converted.
_LONGEST_NUMBER = 20


def _count(value: object) -> int | None:
    """Returns a count, written as 11, 11.0 or "11"; _NO_COUNT for another number; None for what is no whole number."""
    number = value
    if isinstance(value, str):
        digits = value.strip().removeprefix("-")
        if not (digits.isascii() and digits.isdigit()):
            return None
        number = int(value) if len(digits) < _LONGEST_NUMBER else _NO_COUNT
    elif isinstance(value, float):
        if math.isnan(value) or (math.isfinite(value) and not value.is_integer()):
            return None
        number = int(value) if math.isfinite(value) else _NO_COUNT
    if not isinstance(number, int) or isinstance(number, bool):
        return None
    return number if 0 <= number <= MOST_TOKENS else _NO_COUNT


def _possible(count: int | None) -> int | None:
    return None if count == _NO_COUNT else count


def _detail(details: object, name: str) -> int | None:
    return _count(details.get(name)) if isinstance(details, Mapping) else None
