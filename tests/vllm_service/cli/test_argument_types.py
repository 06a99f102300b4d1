"""Arguments are read exactly, or refused with what is expected."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable
from datetime import date

import pytest

from vllm_service.cli.argument_types import count, day, dollars, instant, name, positive, share, whole_number

Read = Callable[[str], object]
#: More than 64 bits, and more digits than Python reads.
TOO_LARGE = ("9223372036854775808", "9" * 5000)


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (whole_number, "0", 0),
        (whole_number, "12", 12),
        (whole_number, "9223372036854775807", 2**63 - 1),
        (count, "1", 1),
        (positive, "0.5", 0.5),
        (positive, "1e3", 1000.0),
        (share, "0", 0.0),
        (share, "0.25", 0.25),
        (share, "1", 1.0),
        (dollars, "0", 0),
        (dollars, "12.5", 12_500_000_000_000),
        (dollars, "0.000000000001", 1),
        (instant, "1970-01-02", 86_400.0),
        (instant, "1970-01-01T00:01", 60.0),
        (instant, "1970-01-01T01:00+01:00", 0.0),
        (day, "2026-11-30", date(2026, 11, 30)),
        (name, "acme", "acme"),
        (name, " Ä & Co. ", "Ä & Co."),
    ],
)
def test_an_argument_is_read(read: Read, text: str, value: object) -> None:
    assert read(text) == value


@pytest.mark.parametrize(
    ("read", "text", "expected"),
    [
        *((whole_number, text, "a whole number of at least 0") for text in ("-1", "1.5", "", "many", "²")),
        *((count, text, "a whole number of at least 1") for text in ("0", "-1", "1.5", "", "many", "²")),
        *((positive, text, "a number above 0") for text in ("0", "-1", "nan", "inf", "", "many")),
        *((share, text, "a number from 0 to 1") for text in ("7", "-0.1", "nan", "inf", "", "half")),
        *((dollars, text, "an amount in dollars") for text in ("-1", "NaN", "inf", "1e-13", "9223373", "", "many")),
        *((instant, text, "a date such as") for text in ("yesterday", "", "2026-02-30")),
        *((read, text, "at most 9,223,372,036,854,775,807") for read in (whole_number, count) for text in TOO_LARGE),
        *((name, text, "a name of printable characters") for text in ("", "  ", "a\nb", "a\tb", "\x1b[31m", "\ud83d")),
        *((day, text, "a day such as") for text in ("yesterday", "", "2026-02-30", "2026-11-30T12:00")),
    ],
)
def test_a_wrong_argument_is_refused_with_what_is_expected(read: Read, text: str, expected: str) -> None:
    with pytest.raises(ArgumentTypeError) as refused:
        read(text)
    assert expected in str(refused.value)
    assert repr(text) in str(refused.value)
