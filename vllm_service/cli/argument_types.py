"""Types of arguments for argparse. A wrong text ends the command with exit code 2 and the expected form."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterable
from datetime import date

from vllm_service.domain.money import picousd
from vllm_service.domain.spelling import nearest
from vllm_service.domain.strategies import RoutingStrategy
from vllm_service.domain.timestamps import utc_seconds

#: What the database holds, and more than anything here can count.
LARGEST = 2**63 - 1


def whole_number(text: str) -> int:
    """Returns a whole number of at least 0."""
    return _whole(text, 0)


def count(text: str) -> int:
    """Returns a whole number of at least 1."""
    return _whole(text, 1)


def _whole(text: str, least: int) -> int:
    if text.isascii() and text.isdecimal():
        # The length first: Python reads no number of thousands of digits.
        if len(text) > 100 or int(text) > LARGEST:
            raise ArgumentTypeError(f"expected a whole number of at most {LARGEST:,}, got {text!r}")
        if int(text) >= least:
            return int(text)
    raise ArgumentTypeError(f"expected a whole number of at least {least}, got {text!r}")


def positive(text: str) -> float:
    """Returns a finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return number


def share(text: str) -> float:
    """Returns a number from 0 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return number


def dollars(text: str) -> int:
    """Returns an amount of at least 0 US dollars, in pico-dollars below 2^63, which is what the database holds."""
    try:
        amount = picousd(text)
    except (ValueError, ArithmeticError):
        amount = -1
    if not 0 <= amount < 2**63:
        raise ArgumentTypeError(f"{text!r} is not an amount in dollars, such as 0.05")
    return amount


def instant(text: str) -> float:
    """Returns seconds since 1970 of a date, or a date and time, in UTC."""
    try:
        return utc_seconds(text)
    except ValueError:
        raise ArgumentTypeError(f"expected a date such as 2026-11-30 or 2026-11-30T12:00, got {text!r}") from None


def day(text: str) -> date:
    """Returns a day."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(f"expected a day such as 2026-11-30, got {text!r}") from None


def name(text: str) -> str:
    """Returns a name without blanks around it. An empty one is a variable of the shell that is not set."""
    if not (stripped := text.strip()) or not stripped.isprintable():
        raise ArgumentTypeError(f"expected a name of printable characters, got {text!r}")
    return stripped


def one_of(values: Iterable[str], *, folded: Callable[[str], str] = str) -> Callable[[str], str]:
    """Returns the type of an argument that is one of these. folded: how a text is written among them, as str.upper.

    argparse's own `choices` would quote the folded text in the error instead of the given one.
    """
    known = list(values)

    def read(text: str) -> str:
        if (value := folded(text)) not in known:
            raise ArgumentTypeError(f"{text!r} is not known{nearest(value, known)}; expected one of {', '.join(known)}")
        return value

    return read


def strategy(text: str) -> str:
    """Returns the name of a routing strategy, in whatever letters it is written."""
    return one_of([strategy.value for strategy in RoutingStrategy], folded=str.upper)(text)


def some_of(values: Iterable[str]) -> Callable[[str], list[str]]:
    """Returns the type of a list, separated by commas, of at least one of these."""
    read = one_of(values)

    def read_all(text: str) -> list[str]:
        return [read(part.strip()) for part in text.split(",") if part.strip()] or [read("")]

    return read_all
