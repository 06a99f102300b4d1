"""Types of arguments for argparse. A wrong text ends the command with exit code 2 and the expected form."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError
from datetime import date

from vllm_service.domain.money import picousd
from vllm_service.domain.timestamps import utc_seconds


def whole_number(text: str) -> int:
    """Returns a whole number of at least 0."""
    if not (text.isascii() and text.isdecimal()):
        raise ArgumentTypeError(f"expected a whole number of at least 0, got {text!r}")
    return int(text)


def count(text: str) -> int:
    """Returns a whole number of at least 1."""
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


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
