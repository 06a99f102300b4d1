"""What is looked up for each request: a model by any of its names, its prices, and the highest of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vllm_service.configured_order import ConfiguredOrder
from vllm_service.catalog.model import Catalog, Offer, Provider, ProviderKind, PublicModel
from vllm_service.domain.pricing import SecondPrice, TokenPrice
from vllm_service.gateway.config_snapshot import ConfigSnapshot, ServedModel

CHEAP_IN = TokenPrice.per_million("0.10", "0.90", "0.01")
CHEAP_OUT = TokenPrice.per_million("0.50", "0.20")
UNKNOWN = None


@pytest.mark.parametrize(
    ("prices", "dearest"),
    [
        pytest.param([], (0, 0), id="no offer"),
        pytest.param([UNKNOWN], (0, 0), id="an unknown price"),
        pytest.param([TokenPrice(0, 0)], (0, 0), id="free"),
        pytest.param([CHEAP_IN], (100_000, 900_000), id="one"),
        # The highest of each, though no single provider has both.
        pytest.param([CHEAP_IN, CHEAP_OUT], (500_000, 900_000), id="two"),
        pytest.param([UNKNOWN, CHEAP_OUT, UNKNOWN], (500_000, 200_000), id="one of three is known"),
    ],
)
def test_what_a_request_can_cost_at_most(prices: list[TokenPrice | None], dearest: tuple[int, int]) -> None:
    offers = tuple(Offer(f"p{number}", "there", price) for number, price in enumerate(prices))
    served = ServedModel(PublicModel("small", offers))
    assert (served.dearest_input, served.dearest_output) == dearest
    assert served.prices == {(offer.provider, "there"): offer.price for offer in offers}


def test_two_models_of_one_provider_have_a_price_each() -> None:
    served = ServedModel(PublicModel("small", (Offer("p", "a", CHEAP_IN), Offer("p", "b", CHEAP_OUT))))
    assert (served.prices["p", "a"], served.prices["p", "b"]) == (CHEAP_IN, CHEAP_OUT)


def test_name_baseline_and_tokenizer_are_the_models() -> None:
    served = ServedModel(PublicModel("small", (), baseline_price=CHEAP_IN, tokenizer=Path("t.json")))
    assert (served.name, served.baseline, served.tokenizer) == ("small", CHEAP_IN, Path("t.json"))


SMALL = PublicModel("small", (Offer("own", "s"),), aliases=("gpt-3.5-turbo", "task:sql"))
LARGE = PublicModel("large", (Offer("own", "l"),))
PROVIDERS = {
    "own": Provider(
        "own",
        ProviderKind.RUNPOD,
        "http://own.test/v1",
        second_price=SecondPrice(310),
        tags=frozenset({"apple-silicon", "eu"}),
    ),
    "hosted": Provider("hosted", ProviderKind.HOSTED, "http://hosted.test/v1", tags=frozenset({"apple"})),
}
CATALOG = Catalog(PROVIDERS, {"small": SMALL, "gpt-3.5-turbo": SMALL, "task:sql": SMALL, "large": LARGE})


def configured(catalog: Catalog = CATALOG) -> ConfigSnapshot:
    return ConfigSnapshot(catalog, ConfiguredOrder(catalog))


@pytest.mark.parametrize(
    ("asked", "name"), [("small", "small"), ("gpt-3.5-turbo", "small"), ("task:sql", "small"), ("large", "large")]
)
def test_a_model_is_found_by_name_alias_and_task(asked: str, name: str) -> None:
    assert configured().models[asked].name == name


@pytest.mark.parametrize("asked", ["", "Small", "small ", "task:", "task:other", "東京", "small\x00"])
def test_an_unknown_name_is_refused_with_the_names_and_tasks_that_there_are(asked: str) -> None:
    assert asked not in configured().models
    error = configured().not_found(asked)
    assert "Models: large, small, task:sql" in str(error)
    assert error.details == {"model": asked}


def test_a_name_without_end_is_repeated_up_to_256_characters() -> None:
    assert configured().not_found("x" * 100_000).details == {"model": "x" * 256}


def test_without_models_the_refusal_says_so() -> None:
    assert "none is configured" in str(configured(Catalog({}, {})).not_found("small"))


def test_only_the_exact_tag_is_apple_silicon() -> None:
    assert configured().on_apple_silicon == {"own"}
