"""What tokens and seconds cost, to the pico-dollar, and what a discount on cached tokens is worth."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_service.domain.pricing import SecondPrice, TokenPrice
from vllm_service.domain.usage import Usage

COUNTS = st.integers(0, 10**9)
PRICES = st.integers(0, 10**9)
PLAIN = TokenPrice.per_million("0.10", "0.20")  # 100,000 and 200,000 pico-dollars a token
DISCOUNTED = TokenPrice.per_million("0.10", "0.20", "0.025")  # a cached token is 25,000
FREE_WHEN_CACHED = TokenPrice.per_million("0.10", "0.20", 0)


@pytest.mark.parametrize(
    ("price", "usage", "cost"),
    [
        pytest.param(PLAIN, Usage(0, 0), 0, id="no tokens"),
        pytest.param(PLAIN, Usage(10, 0), 1_000_000, id="a prompt only: 10 x 100,000"),
        pytest.param(PLAIN, Usage(0, 3), 600_000, id="an answer only: 3 x 200,000"),
        pytest.param(PLAIN, Usage(10, 3), 1_600_000, id="both"),
        pytest.param(PLAIN, Usage(10, 3, cached_tokens=4), 1_600_000, id="cached, without a discount"),
        # 6 x 100,000 + 4 x 25,000 + 3 x 200,000
        pytest.param(DISCOUNTED, Usage(10, 3, cached_tokens=4), 1_300_000, id="cached, with a discount"),
        pytest.param(DISCOUNTED, Usage(10, 0, cached_tokens=10), 250_000, id="all of it cached"),
        # 0 is a price: it must not be taken for none.
        pytest.param(FREE_WHEN_CACHED, Usage(10, 0, cached_tokens=4), 600_000, id="cached for nothing"),
        # Reasoning is part of the completion and has been counted there.
        pytest.param(PLAIN, Usage(10, 3, reasoning_tokens=2), 1_600_000, id="reasoning"),
        pytest.param(PLAIN, Usage(10, 3, estimated=True), 1_600_000, id="estimated"),
        pytest.param(TokenPrice(0, 0), Usage(10**9, 10**9), 0, id="free"),
        # A dollar a token, 10^9 tokens each way: 2 x 10^21 pico-dollars, beyond 64 bits.
        pytest.param(TokenPrice.per_million(10**6, 10**6), Usage(10**9, 10**9), 2 * 10**21, id="beyond 64 bits"),
    ],
)
def test_what_tokens_cost(price: TokenPrice, usage: Usage, cost: int) -> None:
    assert price.cost_picousd(usage) == cost


@given(PRICES, PRICES, st.none() | PRICES, st.lists(st.tuples(COUNTS, COUNTS, COUNTS), max_size=6))
def test_the_cost_of_many_requests_is_the_cost_of_their_tokens_together(
    given_price: int, made: int, cached: int | None, requests: list[tuple[int, int, int]]
) -> None:
    price = TokenPrice(given_price, made, cached)
    usages = [Usage(fresh + again, written, cached_tokens=again) for fresh, again, written in requests]
    together = Usage(
        sum(usage.prompt_tokens for usage in usages),
        sum(usage.completion_tokens for usage in usages),
        cached_tokens=sum(usage.cached_tokens for usage in usages),
    )
    assert sum(map(price.cost_picousd, usages)) == price.cost_picousd(together)


@given(PRICES, PRICES, COUNTS, COUNTS, st.data())
def test_no_discount_is_a_discount_of_nothing(
    given_price: int, made: int, prompt: int, completion: int, data: st.DataObject
) -> None:
    usage = Usage(prompt, completion, cached_tokens=data.draw(st.integers(0, prompt)))
    same = TokenPrice(given_price, made, given_price).cost_picousd(usage)
    assert TokenPrice(given_price, made).cost_picousd(usage) == same


@pytest.mark.parametrize(
    ("price", "shown"),
    [
        (DISCOUNTED, (0.1, 0.2, 0.025)),
        (PLAIN, (0.1, 0.2, None)),
        (FREE_WHEN_CACHED, (0.1, 0.2, 0.0)),
        (TokenPrice(1, 0), (0.000001, 0.0, None)),
    ],
)
def test_prices_are_shown_in_dollars_per_million_tokens(
    price: TokenPrice, shown: tuple[float, float, float | None]
) -> None:
    assert (price.input_usd_per_million, price.output_usd_per_million, price.cached_input_usd_per_million) == shown


@pytest.mark.parametrize("prices", [("-1", "0"), ("0", "-1"), ("0", "0", "-1"), ("0.0000001", "0"), ("0", "NaN")])
def test_a_price_that_is_none_is_refused_wherever_it_stands(prices: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="USD per million tokens"):
        TokenPrice.per_million(*prices)


@pytest.mark.parametrize(
    ("usd_per_second", "microseconds", "cost"),
    [
        ("0.00031", 0, 0),
        ("0.00031", 1, 310),
        ("0.00031", 1_000_000, 310_000_000),  # a second of it: $0.00031
        ("0.00031", 3_600_000_000, 1_116_000_000_000),  # an hour: $1.116
        ("0", 10**12, 0),
        # $1 a second for a hundred years of 365 days: 3.1536 x 10^21 pico-dollars, beyond 64 bits.
        (1, 100 * 365 * 86_400 * 10**6, 31_536 * 10**5 * 10**12),
    ],
)
def test_what_a_workers_time_costs(usd_per_second: str | int, microseconds: int, cost: int) -> None:
    assert SecondPrice.per_second(usd_per_second).cost_picousd(microseconds) == cost


@given(PRICES, COUNTS, COUNTS)
def test_time_costs_the_same_in_one_piece_and_in_two(price: int, first: int, second: int) -> None:
    by_time = SecondPrice(price).cost_picousd
    assert by_time(first) + by_time(second) == by_time(first + second)
