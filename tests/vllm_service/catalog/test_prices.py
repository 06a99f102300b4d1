"""Prices come from the package exactly as it has them, or not at all."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from vllm_service.catalog.prices import PackagePrices
from vllm_service.domain.pricing import TokenPrice

PRICES = PackagePrices(datetime(2026, 11, 21, tzinfo=UTC))


@pytest.mark.parametrize(
    ("source", "model", "price"),
    [
        ("openai", "gpt-4o-mini", TokenPrice(150_000, 600_000, 75_000)),
        ("openai", "GPT-4o-mini-2024-07-18", TokenPrice(150_000, 600_000, 75_000)),
        ("groq", "llama-3.3-70b-versatile", TokenPrice(590_000, 790_000)),
        ("cerebras", "llama3.1-8b", TokenPrice(100_000, 100_000)),
    ],
)
def test_a_listed_model_has_its_price(source: str, model: str, price: TokenPrice) -> None:
    assert PRICES.quote(source, model).price == price


@pytest.mark.parametrize(
    ("source", "model", "reason"),
    [
        ("openai", "gpt-4o-mini-turbo-ultra", "lists no gpt-4o-mini-turbo-ultra at openai"),
        ("cerebras", "llama3.1-8b-mine", "lists no"),
        ("deepinfra", "meta-llama/Llama-3.3-70B-Instruct", "at deepinfra"),
        ("openai", "text-embedding-3-small", "lacks the input or the output price"),
    ],
)
def test_what_is_not_listed_exactly_is_unknown(source: str, model: str, reason: str) -> None:
    quote = PRICES.quote(source, model)
    assert quote.price is None
    assert reason in quote.reason


def test_prices_that_rise_with_the_prompt_hold_below_the_step_only() -> None:
    step = PRICES.quote("openai", "gpt-5.5").reason
    assert "rises at" in step
    first = int(step.partition("rises at ")[2].partition(" ")[0])
    assert PRICES.quote("openai", "gpt-5.5", first).price == TokenPrice(5_000_000, 30_000_000, 500_000)
    assert PRICES.quote("openai", "gpt-5.5", first + 1).price is None


def test_embeddings_have_no_price_for_what_they_do_not_make() -> None:
    assert PRICES.quote("openai", "text-embedding-3-small", output=False).price == TokenPrice(20_000, 0)
