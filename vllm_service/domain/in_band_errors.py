"""Finds an error's members wherever they stand, and the status that an error means which came with status 200."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from vllm_service.domain.refusals import status_by_words

#: HTTP's own words in the code or type of errors, and their status; refusals.py has the words that mean more than a
#: status. The first one found counts. Compared are small letters only, so `BadRequestError` and `bad_request` are the
#: same.
_STATUS_BY_WORD = (
    ("quota", 429),
    ("contentfilter", 400),
    ("contentpolicy", 400),
    ("authentication", 401),
    ("unauthorized", 401),
    ("unauthenticated", 401),
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
#: Where errors have their text. `detail` may hold more than a text; gateway/provider_errors.py reads that.
_MESSAGES = ("error", "message", "detail")
_NAMED = ("param", "code", "type", "status")
#: Members in which an error, or another object around it, may stand.
_AROUND = ("error", "errors", "detail", "response")
_DEEPEST = 4
#: No error has more to say. A longer document may hold a request that a provider has repeated, and takes long to read.
LONGEST_ERROR_BYTES = 64 * 2**10


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


def loaded_error(document: bytes) -> Any:
    """Returns what an error's JSON holds, see `loaded`. Raises ValueError also for what is too long for one."""
    if len(document) > LONGEST_ERROR_BYTES:
        raise ValueError("too long for an error")
    return loaded(document)


def strict_json(document: bytes) -> bytes:
    """Returns the same JSON as the standard has it; see `loaded`. Raises ValueError for what is not JSON."""
    return encoded(loaded(document))


def encoded(value: object) -> bytes:
    """Returns the JSON of what `loaded` has returned; half an emoji becomes a replacement character."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


def error_places(document: object) -> list[Mapping[str, Any]]:
    """Returns the objects in which an error's message, code and type may stand, the innermost first.

    document: an error, what it stands in, or a list of either, as Gemini sends it; none of another kind.
    """
    places: list[Mapping[str, Any]] = []
    within = _first(document)
    while isinstance(within, Mapping) and len(places) < _DEEPEST:
        places.insert(0, within)
        inner = (_first(within[name]) for name in _AROUND if name in within)
        within = next((one for one in inner if isinstance(one, Mapping) and one), None)
    return places


def error_status(document: object) -> int:
    """Returns the status of an error: a number from 400 to 599 in it, or by its words; 0 if it has neither.

    document: see `error_places`.
    """
    places = error_places(document)
    found = [place[name] for place in places for name in _MEMBERS if name in place]
    numbers = (_as_status(value) for value in found)
    words = (_by_word(value) for value in found)
    return (
        next((status for status in numbers if status), 0)
        or status_by_words(found, "")
        or next((status for status in words if status), 0)
        or status_by_words((), error_message(places) or "")
    )


def error_message(places: Sequence[Mapping[str, Any]]) -> str | None:
    """Returns the message of an error; None if it has none. places: see `error_places`."""
    texts = (place.get(name) for place in places for name in _MESSAGES)
    return next((text for text in texts if isinstance(text, str) and text), None)


def is_error(document: object) -> bool:
    """Returns whether what is no answer is worded as an error: marked as one, or with a message and a status."""
    place = _first(document)
    if not isinstance(place, Mapping):
        return False
    is_marked = place.get("error") or place.get("errors") or "error" in (place.get("object"), place.get("type"))
    return bool(is_marked) or (error_message(error_places(place)) is not None and error_status(place) != 0)


def error_object(document: object) -> dict[str, Any]:
    """Returns an error's members in one object, as OpenAI's API has them, wherever they stood. See `error_places`."""
    places = error_places(document)
    members = {"message": error_message(places)}
    for name in _NAMED:
        members[name] = next((place[name] for place in places if isinstance(place.get(name), str | int | float)), None)
    return {name: value for name, value in members.items() if value is not None}


def _first(value: object) -> object:
    """Returns the first item of a list, and anything else as it is."""
    return next(iter(value), None) if _is_list(value) else value


def _is_list(value: object) -> TypeGuard[list[object]]:
    return isinstance(value, list)


def _as_status(value: object) -> int:
    found = _STATUS.fullmatch(str(value).removesuffix(".0")) if isinstance(value, int | float | str) else None
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
