"""Reads the status that an error means which came with status 200: in place of an answer, or within a stream."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

#: Words in the code or type of errors, and the status with which the same error comes from a provider that sends one.
#: The first one found counts. Compared are small letters only, so `BadRequestError` and `bad_request` are the same.
_STATUS_BY_WORD = (
    ("ratelimit", 429),
    ("toomanyrequests", 429),
    ("quota", 429),
    ("throttl", 429),
    ("contextlength", 400),
    ("contentfilter", 400),
    ("contentpolicy", 400),
    ("invalidapikey", 401),
    ("authentication", 401),
    ("unauthorized", 401),
    ("unauthenticated", 401),
    ("insufficientbalance", 402),
    ("billing", 402),
    ("payment", 402),
    ("permission", 403),
    ("forbidden", 403),
    ("notfound", 404),
    ("requesttoolarge", 413),
    ("unprocessable", 422),
    ("badrequest", 400),
    ("invalidrequest", 400),
    ("invalidprompt", 400),
    ("invalidargument", 400),
    ("overloaded", 503),
    ("unavailable", 503),
    ("timeout", 504),
    ("badgateway", 502),
    ("servererror", 500),
    ("internal", 500),
    ("apierror", 500),
)
# A status as number or text, or at the end of a code as this project's gateway writes them: RATE_LIMIT_429.
_STATUS = re.compile(r"(?:.*_)?([45][0-9]{2})", re.ASCII)
_OTHER_THAN_LETTERS = re.compile(r"[^a-z]")
# Where errors have their status or their name: most telling first.
_MEMBERS = ("status_code", "code", "status", "type")


def loaded(document: bytes) -> Any:
    """Returns what JSON holds, as providers write it. Raises ValueError for what is not JSON.

    NaN and infinity are read as null, half an emoji and bytes that are no UTF-8 as replacement characters, and a byte
    order mark is skipped: none of these is a reason to lose an answer.
    """
    try:
        return json.loads(
            document.decode("utf-8-sig", "replace"),
            parse_int=_number,
            parse_float=_number,
            parse_constant=_null,
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None


def strict_json(document: bytes) -> bytes:
    """Returns the same JSON as the standard has it; see `loaded`. Raises ValueError for what is not JSON."""
    return encoded(loaded(document))


def encoded(value: object) -> bytes:
    """Returns the JSON of what `loaded` has returned; half an emoji becomes a replacement character."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


def error_status(error: object, around: Mapping[str, Any] | None = None) -> int:
    """Returns the status of an error: a number from 400 to 599 in it, or by its code or type; 0 if it has neither.

    error: the member `error`, an object or a text. around: the object in which it stood.
    """
    places = [place for place in (error, around) if isinstance(place, Mapping)]
    found = [place[name] for place in places for name in _MEMBERS if name in place]
    numbers = (_as_status(value) for value in found)
    words = (_by_word(value) for value in found)
    return next((status for status in numbers if status), 0) or next((status for status in words if status), 0)


def _as_status(value: object) -> int:
    found = _STATUS.fullmatch(str(value)) if isinstance(value, int | str) else None
    return int(found[1]) if found is not None else 0


def _by_word(value: object) -> int:
    name = _OTHER_THAN_LETTERS.sub("", value.lower()) if isinstance(value, str) else ""
    return next((status for word, status in _STATUS_BY_WORD if word in name), 0)


def _number(digits: str) -> float | int | None:
    """Returns a number; None for one beyond any double, which JSON could not be written with again."""
    if len(digits) < 20 and digits.removeprefix("-").isdigit():
        return int(digits)
    number = float(digits)
    return number if number - number == 0 else None


def _null(_: str) -> None:
    return None
