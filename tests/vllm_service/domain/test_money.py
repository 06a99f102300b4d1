"""Dollars become whole pico-dollars exactly, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_service.domain.money import PICOUSD_PER_USD, picousd, picousd_per_microsecond, picousd_per_token, to_usd

# Whole pico-dollars up to a hundred thousand billion dollars: far beyond 64 bits.
AMOUNTS = st.integers(-(10**26), 10**26)


@pytest.mark.parametrize(
    ("usd", "expected"),
    [
        pytest.param(0, 0, id="nothing"),
        pytest.param("-0.00", 0, id="negative zero"),
        pytest.param(1, 10**12, id="a dollar as int"),
        pytest.param("0.01", 10**10, id="a cent"),
        pytest.param("0.000000000001", 1, id="the smallest"),
        pytest.param("1e-12", 1, id="the smallest, with an exponent"),
        pytest.param("-2.5", -25 * 10**11, id="a credit"),
        pytest.param(Decimal("0.1") + Decimal("0.2"), 3 * 10**11, id="a tenth and two"),
        pytest.param("9223372.036854775807", 2**63 - 1, id="the most that 64 bits hold"),
        pytest.param("9223372.036854775808", 2**63, id="one more than 64 bits hold"),
        # 32 digits: more than the 28 of Python's default context.
        pytest.param("12345678901234567890.123456789012", 12345678901234567890123456789012, id="32 digits"),
        pytest.param("1.00000000000000000000000000000000", 10**12, id="zeros to no end"),
    ],
)
def test_dollars_are_whole_picodollars(usd: Decimal | str | int, expected: int) -> None:
    assert (picousd(usd), type(picousd(usd))) == (expected, int)


@pytest.mark.parametrize(
    "usd",
    [
        pytest.param("0.0000000000001", id="a tenth of the smallest"),
        pytest.param("1.0000000000001", id="a tenth of the smallest too much"),
        pytest.param("1.00000000000000000000000000001", id="30 digits, the last of which is not 0"),
        pytest.param("1." + "0" * 100 + "1", id="102 digits, the last of which is not 0"),
        pytest.param("1e-999999999", id="an exponent without end"),
    ],
)
def test_what_is_finer_than_a_picodollar_is_refused_and_never_rounded(usd: str) -> None:
    with pytest.raises(ValueError, match="finer than 1e-12 USD"):
        picousd(usd)


@pytest.mark.parametrize("usd", ["", "abc", "1,5", "$1", "NaN", "-NaN", "sNaN", "Infinity", "-Infinity", "1e999999999"])
@pytest.mark.parametrize("read", [picousd, picousd_per_token, picousd_per_microsecond])
def test_what_is_no_amount_is_a_value_error_whatever_it_is(read: Callable[[str], int], usd: str) -> None:
    with pytest.raises(ValueError, match=r"USD"):
        read(usd)


@given(AMOUNTS)
def test_an_amount_written_out_is_read_back_as_it_was(amount: int) -> None:
    whole, rest = divmod(abs(amount), PICOUSD_PER_USD)
    written = f"{'-' if amount < 0 else ''}{whole}.{rest:012d}"
    assert picousd(written) == amount


@given(st.lists(AMOUNTS, max_size=8))
def test_sums_are_exact_in_any_order(amounts: list[int]) -> None:
    written = [f"{amount}e-12" for amount in amounts]
    total = sum(Fraction(amount, PICOUSD_PER_USD) for amount in amounts)
    assert Fraction(sum(map(picousd, written)), PICOUSD_PER_USD) == total
    assert sum(map(picousd, reversed(written))) == sum(amounts)


@pytest.mark.parametrize(
    ("usd_per_million", "expected"),
    [
        ("0", 0),
        ("0.000001", 1),  # a pico-dollar a token is a millionth of a dollar per million
        ("0.02", 20_000),
        ("0.10", 100_000),
        (Decimal("0.075"), 75_000),
        (15, 15_000_000),
        ("1000000", 10**12),  # a dollar a token
    ],
)
def test_dollars_per_million_tokens_are_picodollars_per_token(
    usd_per_million: Decimal | str | int, expected: int
) -> None:
    assert picousd_per_token(usd_per_million) == expected


@pytest.mark.parametrize(
    ("usd_per_second", "expected"),
    # $0.00031 a second is $1.116 an hour; a microsecond of it is 310 pico-dollars.
    [("0", 0), ("0.000001", 1), ("0.00031", 310), (1, 10**6)],
)
def test_dollars_per_second_are_picodollars_per_microsecond(usd_per_second: str | int, expected: int) -> None:
    assert picousd_per_microsecond(usd_per_second) == expected


@pytest.mark.parametrize("read", [picousd_per_token, picousd_per_microsecond])
@pytest.mark.parametrize(
    ("price", "message"),
    [
        ("-0.01", "is not a price"),
        ("-Infinity", "is not a number of USD"),
        ("NaN", "is not a number of USD"),
        ("0.0000001", "finer than 0.000001"),
        ("0.0000015", "finer than 0.000001"),
        ("1.000000000000000000000000000001", "finer than 0.000001"),
    ],
)
def test_a_price_is_not_negative_and_a_whole_number_of_units(
    read: Callable[[str], int], price: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read(price)


@pytest.mark.parametrize(
    ("amount", "usd"),
    [
        (None, None),
        (0, 0.0),
        (1, 1e-12),
        (-1_500_000_000_000, -1.5),
        (300_000_000_000, 0.3),  # and not 0.30000000000000004
        (2**63, 9223372.036854775808),
        (10**40, 1e28),
    ],
)
def test_dollars_for_people_are_the_nearest_float_and_unknown_stays_unknown(
    amount: int | None, usd: float | None
) -> None:
    assert to_usd(amount) == usd
