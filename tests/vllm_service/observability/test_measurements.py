"""What is measured per model and provider, over which time, and that callers cannot make it grow."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.vllm_service.api.service import CATALOG, REQUEST, Clock
from vllm_service.catalog.model import Catalog, Offer, Provider, ProviderKind, PublicModel
from vllm_service.domain.money import picousd
from vllm_service.domain.requests import Outcome
from vllm_service.domain.usage import Usage
from vllm_service.observability.measurements import OTHER, Measurements

REJECTED = replace(REQUEST, outcome=Outcome.REJECTED, status=429, provider=None, usage=None, total_ms=0.2)


def measured(clock: Clock | None = None) -> Measurements:
    return Measurements(lambda: CATALOG, 0.5, clock or Clock())


def test_an_alias_is_counted_as_its_model() -> None:
    measurements = measured()
    measurements.record(replace(REQUEST, model="gpt-3.5-turbo"))
    measurements.record(REQUEST)
    assert {name: tally.requests for name, tally in measurements.by_model().items()} == {"llama": 2}


def test_savings_are_exact_and_only_of_what_is_known_on_both_sides() -> None:
    measurements = measured()
    for cost, baseline in [(1, picousd("0.1")), (None, 5), (7, None), (picousd("0.3"), 2)]:
        measurements.record(replace(REQUEST, cost_picousd=cost, baseline_picousd=baseline))
    tally = measurements.all_time()
    assert tally.savings_picousd == picousd("0.1") - 1 + 2 - picousd("0.3")
    assert (tally.cost_picousd, tally.unpriced) == (8 + picousd("0.3"), 1)


def test_only_completed_requests_count_as_latency() -> None:
    measurements = measured()
    measurements.record(REQUEST)
    measurements.record(replace(REJECTED, error_code="RATE_LIMIT_429"))
    measurements.record(replace(REQUEST, outcome=Outcome.CACHED, total_ms=0.1, provider=None))
    tally = measurements.all_time()
    assert (tally.requests, tally.latency.count, tally.latency.mean_ms) == (3, 1, 100.0)
    assert tally.errors == {"RATE_LIMIT_429": 1}


def test_targets_are_the_models_own_else_the_gateways() -> None:
    measurements = measured()
    for model, milliseconds in [("llama", 200.0), ("llama", 201.0), ("org/sql", 500.0), ("org/sql", 501.0)]:
        measurements.record(replace(REQUEST, model=model, total_ms=milliseconds))
    tallies = measurements.by_model()
    assert [(tallies[name].targets_met, tallies[name].targets_missed) for name in ("llama", "org/sql")] == [(1, 1)] * 2


def test_an_hour_later_the_hour_is_empty_and_a_day_later_the_day() -> None:
    clock = Clock()
    measurements = measured(clock)
    measurements.record(REQUEST)

    def counts() -> tuple[int, int, int]:
        return (
            measurements.last_hour().requests,
            measurements.last_day().requests,
            measurements.all_time().requests,
        )

    assert counts() == (1, 1, 1)
    clock.seconds += 54 * 60
    assert counts() == (1, 1, 1)
    clock.seconds += 6 * 60
    assert counts() == (0, 1, 1)
    clock.seconds += 22 * 3600
    assert counts() == (0, 1, 1)
    clock.seconds += 2 * 3600
    assert counts() == (0, 0, 1)


def test_windows_add_up_over_many_slots() -> None:
    clock = Clock()
    measurements = measured(clock)
    for _ in range(12 * 30):
        measurements.record(REQUEST)
        clock.seconds += 300
    assert measurements.all_time().requests == 360
    assert measurements.last_hour().requests == 11  # the present slot has just begun
    assert measurements.last_day().requests == 23 * 12


def test_rates_are_of_the_last_minutes_and_the_peak_stays() -> None:
    clock = Clock()
    measurements = measured(clock)
    for _ in range(30):
        measurements.record(replace(REQUEST, usage=Usage(1, 120)))
    clock.seconds += 30
    rates = measurements.rates()
    assert (rates.requests_per_minute, rates.tokens_per_second) == (60.0, 120.0)
    clock.seconds += 3600
    rates = measurements.rates()
    assert (rates.requests_per_minute, rates.peak_tokens_per_second) == (0.0, 60.0)


def test_names_that_callers_make_up_become_one() -> None:
    measurements = measured()
    for index in range(1000):
        measurements.record(replace(REJECTED, model=f"made-up-{index}", error_code=f"CODE_{index}"))
    assert list(measurements.by_model()) == [OTHER]
    assert measurements.all_time().errors == {OTHER: 1000}


def test_a_catalog_too_large_to_be_told_apart_is_counted_all_the_same() -> None:
    models = {f"m{index}": PublicModel(f"m{index}", (Offer("p", "m"),)) for index in range(300)}
    catalog = Catalog({"p": Provider("p", ProviderKind.HOSTED, "http://p.test/v1")}, models)
    measurements = Measurements(lambda: catalog, None, Clock())
    for name in models:
        measurements.record(replace(REQUEST, model=name, provider="p"))
    assert len(measurements.by_model()) <= 129
    assert measurements.all_time().requests == 300


def test_a_model_that_a_reload_brings_is_counted_under_its_name() -> None:
    catalogs = [Catalog({}, {})]
    measurements = Measurements(lambda: catalogs[-1], None, Clock())
    measurements.record(REQUEST)
    catalogs.append(CATALOG)
    measurements.record(REQUEST)
    assert {name: tally.requests for name, tally in measurements.by_model().items()} == {OTHER: 1, "llama": 1}


def test_tokens_per_second_is_null_before_anything_was_measured() -> None:
    measurements = measured()
    assert measurements.all_time().tokens_per_second is None
    measurements.record(REQUEST)
    assert measurements.all_time().tokens_per_second == pytest.approx(200.0)
