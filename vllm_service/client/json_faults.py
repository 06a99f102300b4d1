"""The reason why a value cannot be written as JSON, and its place, for the error of the caller. Pure.

Only reads a value that could not be written. No error quotes a text of the value, which may be a prompt.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

#: A deeper value is refused by that depth.
DEEPEST = 200
#: A longer key is cut in a path.
LONGEST_KEY = 40
LONGEST_PATH = 200


class Fault(NamedTuple):
    """A part of a value that is no JSON."""

    #: Such as `messages[2].content`.
    path: str
    reason: str


def fault_in(value: object, name: str) -> Fault:
    """Returns the first fault of a value that could not be written as JSON."""
    found = next(_faults(value, name, ()), None)
    if found is None:
        return Fault(name, "it cannot be written as JSON")
    return found if len(found.path) <= LONGEST_PATH else Fault(f"{found.path[:LONGEST_PATH]}...", found.reason)


def _faults(value: object, path: str, parents: tuple[int, ...]) -> Iterator[Fault]:
    if (reason := _reason(value) or _nesting_reason(value, parents)) is not None:
        yield Fault(path, reason)
        return
    parents = (*parents, id(value))
    for step, member in _members(value):
        yield from _faults(member, f"{path}{step}", parents)


def _members(value: object) -> Iterator[tuple[str, object]]:
    """Yields what the value holds, with its place."""
    if isinstance(value, Mapping):
        for key, member in value.items():
            yield f".{_written(key)}", member
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield f"[{index}]", item


def _nesting_reason(value: object, parents: tuple[int, ...]) -> str | None:
    if id(value) in parents:
        return "it contains itself"
    return f"it is nested more than {DEEPEST} levels deep" if len(parents) > DEEPEST else None


def _reason(value: object) -> str | None:
    """Returns the reason for which the value itself is no JSON; None if it is, or its members decide."""
    if isinstance(value, str):
        return _text_reason(value)
    if isinstance(value, float):
        return None if math.isfinite(value) else f"JSON has no number {value}"
    if isinstance(value, int):
        return _integer_reason(value)
    if isinstance(value, Mapping):
        return next((reason for key in value if (reason := _key_reason(key)) is not None), None)
    if value is None or isinstance(value, list | tuple):
        return None
    return f"{type(value).__name__} is no JSON: expected text, a number, true, false, a list or an object"


def _text_reason(text: str) -> str | None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ord(text[error.start])
        return f"half of a surrogate pair (U+{half:04X}) at character {error.start} is no text: was an emoji cut?"
    return None


def _integer_reason(number: int) -> str | None:
    try:
        str(number)
    except ValueError:
        return "the integer has too many digits"
    return None


def _key_reason(key: object) -> str | None:
    if isinstance(key, str):
        return None if _text_reason(key) is None else "a key holds half of a surrogate pair"
    return None if isinstance(key, int | float) or key is None else f"a key is {type(key).__name__}, not text"


def _written(key: object) -> str:
    return ascii(key)[1:-1][:LONGEST_KEY] if isinstance(key, str) else ascii(key)[:LONGEST_KEY]
