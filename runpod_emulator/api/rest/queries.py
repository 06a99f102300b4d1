"""The parameters of a query. An unknown or repeated one is refused, because ignoring it would look like success."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from aiohttp import web

from runpod_emulator.errors import BadRequest, Unprocessable

#: The longest value, and the most values of a list that are separated by commas.
LONGEST_VALUE = 2000
MOST_VALUES = 100
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,6})?\d*([Zz]|[+-]\d\d:\d\d)", re.ASCII)


class Query:
    """The parameters of one request. Each method returns None for one that is left out, and raises Unprocessable."""

    def __init__(self, request: web.Request, allowed: Sequence[str]) -> None:
        """Raises BadRequest for a parameter that is not allowed, is repeated, or is too long."""
        self._given = {name: request.query[name] for name in request.query}
        for name, value in request.query.items():
            if name not in allowed:
                raise BadRequest(f"the query has an unknown parameter; expected some of {', '.join(allowed) or 'none'}")
            if len(request.query.getall(name)) > 1 or len(value) > LONGEST_VALUE:
                raise BadRequest(f"{name}: expected once, with at most {LONGEST_VALUE} characters")

    def __contains__(self, name: str) -> bool:
        return name in self._given

    def text(self, name: str) -> str | None:
        """Returns a value as it is."""
        return self._given.get(name)

    def whole(self, name: str, most: int) -> int | None:
        """Returns a whole number from 1 on."""
        text = self._given.get(name)
        if text is None:
            return None
        if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= most):
            raise _wrong(name, f"expected a whole number from 1 to {most}")
        return int(text)

    def time(self, name: str) -> datetime | None:
        """Returns a time of RFC 3339, with its offset; digits after the microsecond are dropped."""
        text = self._given.get(name)
        if text is None:
            return None
        if not _TIME.fullmatch(text):
            raise _wrong(name, "expected a time of RFC 3339, such as 2026-11-29T00:00:00Z")
        try:
            return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text.upper()))
        except ValueError:
            raise _wrong(name, "there is no such time") from None

    def choices(self, name: str, allowed: Sequence[str]) -> tuple[str, ...] | None:
        """Returns the values of a list that is separated by commas."""
        return self.values(name, "|".join(map(re.escape, allowed)))

    def choice(self, name: str, allowed: Sequence[str]) -> str | None:
        """Returns one of these values."""
        text = self._given.get(name)
        if text is not None and text not in allowed:
            raise _wrong(name, f"expected one of {', '.join(allowed)}")
        return text

    def values(self, name: str, pattern: str) -> tuple[str, ...] | None:
        """Returns the values of a list that is separated by commas; each matches the pattern."""
        text = self._given.get(name)
        if text is None:
            return None
        values = tuple(text.split(","))
        if len(values) > MOST_VALUES or not all(re.fullmatch(pattern, value, re.ASCII) for value in values):
            raise _wrong(name, f"expected at most {MOST_VALUES} values of the form {pattern}, separated by commas")
        return values


def _wrong(name: str, sentence: str) -> Unprocessable:
    return Unprocessable("Request validation failed.", [f"query.{name}: {sentence}"])
