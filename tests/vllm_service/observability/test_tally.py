"""What adds up over finished requests: each sum by hand, and tallies that may be put together in any order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vllm_service.observability.records import COMPLETED, RECORDS, everything_in, record, tally_of
from vllm_service.domain.cost_basis import CostBasis
from vllm_service.domain.money import picousd
from vllm_service.domain.requests import Outcome, RequestRecord
from vllm_service.domain.usage import Usage
from vllm_service.observability.tally import Tally, combined

BATCHES = st.lists(RECORDS, max_size=5)
TARGETS = st.none() | st.integers(0, 10**8).map(lambda quarters: quarters / 4)


@pytest.mark.parametrize(
    ("fields", "sums"),
    [
        pytest.param({}, {"requests": 1, "streams": 0, "attempts": 1, "fallbacks": 0}, id="one attempt"),
        pytest.param({"attempts": 0}, {"attempts": 0, "fallbacks": 0}, id="no attempt"),
        pytest.param({"attempts": 2}, {"attempts": 2, "fallbacks": 1}, id="a second attempt is a fall-back"),
        # It counts requests that fell back, not how often they did.
        pytest.param({"attempts": 4}, {"attempts": 4, "fallbacks": 1}, id="four attempts"),
        pytest.param({"stream": True}, {"streams": 1}, id="a stream"),
        pytest.param(
            {},
            {"prompt_tokens": 10, "cached_tokens": 4, "completion_tokens": 20, "reasoning_tokens": 5, "estimated": 0},
            id="tokens as the provider counted them",
        ),
        pytest.param(
            {"usage": Usage(2**63, 2**63, estimated=True)},
            {"prompt_tokens": 2**63, "completion_tokens": 2**63, "cached_tokens": 0, "estimated": 1, "uncounted": 0},
            id="estimated tokens beyond 64 bits",
        ),
        pytest.param({"usage": None}, {"prompt_tokens": 0, "completion_tokens": 0, "uncounted": 1}, id="unknown usage"),
        pytest.param(
            {"usage": None, "outcome": Outcome.FAILED}, {"uncounted": 0, "unpriced": 0}, id="unknown usage of a failure"
        ),
        pytest.param({"cost_picousd": None}, {"cost_picousd": 0, "unpriced": 1}, id="unknown cost"),
        pytest.param({"cost_picousd": 0}, {"cost_picousd": 0, "unpriced": 0}, id="a cost of nothing is known"),
        pytest.param({}, {"cost_picousd": 7, "baseline_picousd": 10, "savings_picousd": 3}, id="savings"),
        pytest.param({"cost_picousd": 12}, {"savings_picousd": -2}, id="a loss"),
        pytest.param(
            {"cost_basis": CostBasis.EXPECTED}, {"expected_picousd": 7, "booked_picousd": 0}, id="an expected cost"
        ),
        pytest.param(
            {"cost_basis": CostBasis.BOOKED}, {"expected_picousd": 0, "booked_picousd": 7}, id="a booked cost"
        ),
        pytest.param(
            {"cost_picousd": None},
            {"baseline_picousd": 10, "savings_picousd": 0, "compared_baseline_picousd": 0},
            id="no savings on an unknown cost",
        ),
        pytest.param(
            {"baseline_picousd": None},
            {"cost_picousd": 7, "savings_picousd": 0, "compared_cost_picousd": 0},
            id="no savings on an unknown baseline",
        ),
        pytest.param(
            {"cost_picousd": 0, "baseline_picousd": 0}, {"savings_picousd": 0, "unpriced": 0}, id="nothing on nothing"
        ),
        pytest.param(
            {"outcome": Outcome.CANCELLED},
            {"cost_picousd": 7, "savings_picousd": 3, "prompt_tokens": 10},
            id="left early",
        ),
        pytest.param(
            {"usage": None, "cost_picousd": picousd(10**9)}, {"cost_picousd": 10**21}, id="dollars beyond 64 bits"
        ),
    ],
)
def test_what_one_request_adds(fields: dict[str, Any], sums: dict[str, int]) -> None:
    tally = tally_of([record(**fields)])
    assert {name: getattr(tally, name) for name in sums} == sums


@pytest.mark.parametrize(
    ("fields", "sums"),
    [
        pytest.param({}, {"latency_ms": 100.0, "latencies": 1, "queue_ms": 1.0, "queued": 1}, id="all times"),
        pytest.param({"queue_ms": None}, {"latencies": 1, "queue_ms": 0.0, "queued": 0}, id="no time in the queue"),
        pytest.param({"total_ms": None}, {"latencies": 0, "queued": 0, "mean_latency_ms": None}, id="no end"),
        pytest.param(
            {"total_ms": 0.0}, {"latencies": 1, "mean_latency_ms": 0.0, "tokens_per_second": None}, id="no time"
        ),
        # 20 tokens in 100 ms.
        pytest.param({}, {"tokens_per_second": 200.0, "timed_tokens": 20, "timed_ms": 100.0}, id="speed"),
        pytest.param({"usage": None}, {"tokens_per_second": None, "timed_ms": 0.0, "latencies": 1}, id="unknown speed"),
        pytest.param({"usage": Usage(5, 0)}, {"tokens_per_second": 0.0, "timed_ms": 100.0}, id="no tokens"),
        *(
            pytest.param(
                {"outcome": outcome},
                {"latencies": 0, "queued": 0, "timed_tokens": 0, "mean_latency_ms": None, "tokens_per_second": None},
                id=f"{outcome} says nothing of a model's speed",
            )
            for outcome in Outcome
            if outcome is not Outcome.COMPLETED
        ),
    ],
)
def test_times_are_of_completed_requests(fields: dict[str, Any], sums: dict[str, float | None]) -> None:
    tally = tally_of([record(**fields)], 50.0)
    assert {name: getattr(tally, name) for name in sums} == sums
    assert (tally.latency.count, tally.latency.sum_ms) == (tally.latencies, tally.latency_ms)
    assert tally.ttft.count == (tally.by_outcome[Outcome.COMPLETED])


@pytest.mark.parametrize(
    ("total_ms", "target_ms", "met", "missed", "share"),
    [
        pytest.param(100.0, None, 0, 0, None, id="no target"),
        pytest.param(100.0, 100.0, 1, 0, 1.0, id="just met"),
        pytest.param(100.25, 100.0, 0, 1, 0.0, id="just missed"),
        pytest.param(0.0, 0.0, 1, 0, 1.0, id="no time at all"),
        pytest.param(100.25, 101, 1, 0, 1.0, id="a target that is an int"),
        pytest.param(None, 100.0, 0, 0, None, id="a time that is not known"),
    ],
)
def test_a_target_is_met_by_what_takes_no_longer(
    total_ms: float | None, target_ms: float | None, met: int, missed: int, share: float | None
) -> None:
    tally = tally_of([record(total_ms=total_ms)], target_ms)
    assert (tally.targets_met, tally.targets_missed, tally.target_met_share) == (met, missed, share)


def test_requests_that_reached_no_model_have_no_target() -> None:
    tally = tally_of([COMPLETED, *(record(outcome=outcome) for outcome in Outcome)], 100.0)
    assert (tally.targets_met, tally.targets_missed, tally.target_met_share) == (2, 0, 1.0)


def test_outcomes_statuses_and_errors_are_counted_by_name() -> None:
    rejected = record(outcome=Outcome.REJECTED, status=429, error_code="RATE_LIMIT_429")
    tally = tally_of([COMPLETED, rejected, rejected])
    assert tally.by_outcome == {Outcome.COMPLETED: 1, Outcome.REJECTED: 2}
    assert (tally.by_status, tally.errors, tally.requests) == ({200: 1, 429: 2}, {"RATE_LIMIT_429": 2}, 3)


def test_of_nothing_nothing_is_known() -> None:
    tally = Tally()
    assert (tally.requests, tally.cost_picousd, tally.savings_picousd) == (0, 0, 0)
    assert (tally.mean_latency_ms, tally.tokens_per_second, tally.target_met_share) == (None, None, None)


def test_no_requests_add_nothing() -> None:
    tally = tally_of([COMPLETED])
    tally.add([], [], 100.0)
    assert everything_in(tally) == everything_in(tally_of([COMPLETED]))


def naive(records: list[RequestRecord]) -> dict[str, object]:
    """The sums again, each by its own sentence."""
    usages = [one.usage for one in records if one.usage is not None]
    done = [one for one in records if one.outcome is Outcome.COMPLETED]
    timed = [one for one in done if one.total_ms is not None]
    both = [
        (one.baseline_picousd, one.cost_picousd)
        for one in records
        if one.baseline_picousd is not None and one.cost_picousd is not None
    ]
    return {
        "requests": len(records),
        "attempts": sum(one.attempts for one in records),
        "fallbacks": sum(one.attempts >= 2 for one in records),
        "streams": sum(one.stream for one in records),
        "prompt_tokens": sum(usage.prompt_tokens for usage in usages),
        "cached_tokens": sum(usage.cached_tokens for usage in usages),
        "completion_tokens": sum(usage.completion_tokens for usage in usages),
        "reasoning_tokens": sum(usage.reasoning_tokens for usage in usages),
        "estimated": sum(usage.estimated for usage in usages),
        "implausible": sum(usage.implausible for usage in usages),
        "uncounted": sum(one.usage is None for one in done),
        "unpriced": sum(one.cost_picousd is None for one in done),
        "latency_ms": sum(one.total_ms or 0.0 for one in timed),
        "queued": sum(one.queue_ms is not None for one in timed),
        "queue_ms": sum(one.queue_ms or 0.0 for one in timed),
        "timed_tokens": sum(one.usage.completion_tokens for one in timed if one.usage is not None),
        "timed_ms": sum(one.total_ms or 0.0 for one in timed if one.usage is not None),
        "cost_picousd": sum(one.cost_picousd or 0 for one in records),
        "baseline_picousd": sum(one.baseline_picousd or 0 for one in records),
        "savings_picousd": sum(baseline - cost for baseline, cost in both),
    }


@given(st.lists(RECORDS, max_size=12))
def test_every_sum_is_the_naive_one(records: list[RequestRecord]) -> None:
    tally, expected = tally_of(records), naive(records)
    assert {name: getattr(tally, name) for name in expected} == expected


@given(BATCHES, BATCHES, TARGETS)
def test_requests_added_in_two_batches_or_one_or_merged_are_the_same(
    first: list[RequestRecord], second: list[RequestRecord], target_ms: float | None
) -> None:
    one_by_one = Tally()
    for one in (*first, *second):
        one_by_one.merge(tally_of([one], target_ms))
    merged = tally_of(first, target_ms)
    merged.merge(tally_of(second, target_ms))
    assert everything_in(merged) == everything_in(one_by_one) == everything_in(tally_of([*first, *second], target_ms))


@given(BATCHES, BATCHES, BATCHES)
def test_merging_does_not_care_for_the_order(
    first: list[RequestRecord], second: list[RequestRecord], third: list[RequestRecord]
) -> None:
    a, b, c = (tally_of(records) for records in (first, second, third))
    left, right = combined([combined([a, b]), c]), combined([a, combined([b, c])])
    assert everything_in(left) == everything_in(right) == everything_in(combined([c, b, a]))
    assert everything_in(combined([])) == everything_in(Tally())
    assert everything_in(a) == everything_in(tally_of(first)), "what is merged into another does not change"


@given(BATCHES, BATCHES)
def test_numbers_merged_alone_are_those_of_a_whole_merge(
    first: list[RequestRecord], second: list[RequestRecord]
) -> None:
    numbers, whole = tally_of(first), tally_of(first)
    numbers.merge_numbers(tally_of(second))
    whole.merge(tally_of(second))
    names = naive([]).keys() - {"requests"}
    assert [getattr(numbers, name) for name in names] == [getattr(whole, name) for name in names]
    assert numbers.requests == len(first)
