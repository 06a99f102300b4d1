"""What a worker's second costs by the GPUs that it got."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tests.vllm_service.catalog.support import PROVIDERS, Configured
from vllm_service.catalog.gpu_types import GPU_TYPES
from vllm_service.catalog.model import Provider, ProviderKind
from vllm_service.catalog.worker_prices import is_priced, worker_price
from vllm_service.domain.pricing import SecondPrice
from vllm_service.errors import ConfigurationError

RTX_4090, A40, UNHEARD_OF = "NVIDIA GeForce RTX 4090", "NVIDIA A40", "NVIDIA X9000"


def provider(usd_per_second: str | None, **gpu_prices: str) -> Provider:
    own = tuple((name, SecondPrice.per_second(price)) for name, price in gpu_prices.items())
    price = None if usd_per_second is None else SecondPrice.per_second(usd_per_second)
    return Provider("own", ProviderKind.RUNPOD, "http://x/v1", second_price=price, gpu_prices=own)


@pytest.mark.parametrize(
    ("usd_per_second", "gpu_type", "gpu_count", "usd"),
    [
        # Configured with the list price of a 4090: a worker on another type costs that type's.
        ("0.00031", RTX_4090, 1, "0.00031"),
        ("0.00031", A40, 1, "0.00034"),
        ("0.00062", A40, 2, "0.00068"),
        # A price of one's own, by agreement say, holds for every type without a price of its own.
        ("0.00025", RTX_4090, 1, "0.00025"),
        ("0.00025", A40, 1, "0.00025"),
        ("0.00031", A40, 2, "0.00031"),
        # Not known: what the endpoint is configured with.
        ("0.00031", UNHEARD_OF, 1, "0.00031"),
        ("0.00031", None, 1, "0.00031"),
        ("0.00031", A40, None, "0.00031"),
        ("0.00031", A40, 0, "0.00031"),
        (None, A40, 1, None),
    ],
)
def test_a_worker_costs_the_price_of_its_gpus(
    usd_per_second: str | None, gpu_type: str | None, gpu_count: int | None, usd: str | None
) -> None:
    price = None if usd is None else SecondPrice.per_second(usd)
    assert worker_price(provider(usd_per_second), gpu_type, gpu_count) == price


def test_a_price_of_ones_own_goes_before_the_list() -> None:
    own = provider("0.00031", **{A40: "0.0003"})
    assert worker_price(own, A40, 4) == SecondPrice.per_second("0.0012")
    assert worker_price(own, RTX_4090, 1) == SecondPrice.per_second("0.00031")


@pytest.mark.parametrize(
    ("usd_per_second", "gpu_type", "is_only_type", "known"),
    [
        ("0.00031", A40, False, True),  # a list price
        ("0.00031", "NVIDIA X1", False, True),  # one's own
        ("0.00031", UNHEARD_OF, True, False),
        ("0.00025", A40, True, True),  # a price by agreement is of the only type that is used
        ("0.00025", A40, False, False),  # and cannot be that of every type
        (None, UNHEARD_OF, False, True),  # nothing is counted where no price is set
    ],
)
def test_a_type_without_a_price_is_known_as_such(
    usd_per_second: str | None, gpu_type: str, is_only_type: bool, known: bool
) -> None:
    own = provider(usd_per_second, **{"NVIDIA X1": "0.0003"})
    assert is_priced(own, gpu_type, 1, is_only_type=is_only_type) == known


def test_each_type_is_in_the_table_once() -> None:
    assert len({gpu_type.id for gpu_type in GPU_TYPES}) == len(GPU_TYPES)
    assert all(gpu_type.usd_per_second > Decimal(0) for gpu_type in GPU_TYPES)


def with_prices(lines: str) -> str:
    return PROVIDERS.replace("    as_of: 2026-11-21\n", f"    as_of: 2026-11-21\n    gpu_prices: {lines}\n", 1)


def test_a_pool_is_all_its_types_and_a_types_own_price_goes_before(configured: Configured) -> None:
    prices = f"{{{UNHEARD_OF}: 0.001, NVIDIA A40: 0.0003, AMPERE_48: 0.00032}}"
    own = configured.read(with_prices(prices)).catalog.providers["own"]
    assert dict(own.gpu_prices) == {
        UNHEARD_OF: SecondPrice.per_second("0.001"),
        "NVIDIA RTX A6000": SecondPrice.per_second("0.00032"),
        A40: SecondPrice.per_second("0.0003"),
    }


@pytest.mark.parametrize(
    ("prices", "complaint"),
    [
        ("{NVIDIA A40: cheap}", r"yaml:7: providers\.own\.gpu_prices\.NVIDIA A40: expected a number"),
        ("{NVIDIA A40: -1}", r"yaml:7: providers\.own\.gpu_prices\.NVIDIA A40: expected a number of at least 0"),
        ("{NVIDIA A40: 0.00000001}", r"yaml:7: providers\.own\.gpu_prices\.NVIDIA A40: "),
        ("0.0003", r"yaml:7: providers\.own\.gpu_prices: expected"),
    ],
)
def test_what_is_wrong_with_the_prices_is_named(configured: Configured, prices: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        configured.read(with_prices(prices))


def test_prices_by_type_need_one_for_all_others(configured: Configured) -> None:
    without = with_prices("{NVIDIA A40: 0.0003}").replace("    usd_per_second: 0.00031\n", "", 1)
    with pytest.raises(ConfigurationError, match=r"yaml:6: providers\.own\.gpu_prices: usd_per_second is missing"):
        configured.read(without)
