"""Takes secrets out of what a platform says: it may repeat the key, or the values of a request's environment.

A part of a secret is concealed too, since platforms cut long values: any eight characters in a row. A shorter secret is
concealed where it stands alone. Words that an environment holds without being secret, such as `true`, stay.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import quote

CONCEALED = "[concealed]"
_PART = 8
_SHORTEST = 4
_PLAIN_WORDS = frozenset({"true", "false", "none", "null", "auto"})
_SECRET_NAMES = re.compile(r"password|token|secret|key", re.IGNORECASE)


def conceal(text: str, secrets: Iterable[str]) -> str:
    """Returns the text with CONCEALED in place of every secret, and of every part of one. Ignores upper and lower case.

    Takes time in proportion to the text and the secrets together.
    """
    forms = {form for secret in secrets for form in _forms(secret)}
    short = sorted((form for form in forms if len(form) < _PART), key=len, reverse=True)
    for form in short:
        if len(form) >= _SHORTEST and form.lower() not in _PLAIN_WORDS:
            text = re.sub(rf"(?<!\w){re.escape(form)}(?!\w)", CONCEALED, text, flags=re.IGNORECASE)
    return _without_parts(text, [form.lower() for form in forms if len(form) >= _PART])


def secrets_in(body: object) -> Iterator[str]:
    """Yields the secret texts of a request's body: the values of `env`, and what is named like a key or a password."""
    if isinstance(body, Mapping):
        for name, value in body.items():
            if name == "env" or _SECRET_NAMES.search(str(name)):
                yield from _texts(value)
            else:
                yield from secrets_in(value)
    elif isinstance(body, list | tuple):
        for value in body:
            yield from secrets_in(value)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for member in value.values():
            yield from _texts(member)
    elif isinstance(value, list | tuple):
        for member in value:
            yield from _texts(member)


def _forms(secret: str) -> tuple[str, ...]:
    """Returns the secret as it is, as JSON writes it and as a URL does."""
    return secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], quote(secret, safe="")


def _without_parts(text: str, secrets: list[str]) -> str:
    lower = text.lower()
    if len(lower) != len(text):  # a few letters change their length; the positions would be wrong
        text = lower
    starts: dict[str, list[int]] = {}
    for start in range(len(lower) - _PART + 1):
        starts.setdefault(lower[start : start + _PART], []).append(start)
    hidden = bytearray(len(text))
    for secret in secrets:
        for at in range(len(secret) - _PART + 1):
            for start in starts.pop(secret[at : at + _PART], ()):
                hidden[start : start + _PART] = b"\x01" * _PART
    runs = re.finditer(rb"\x01+|\x00+", bytes(hidden))
    return "".join(CONCEALED if run[0][0] else text[run.start() : run.end()] for run in runs)
