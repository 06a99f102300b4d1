"""What the router learns from how requests went: lengths, caches, speeds, cold starts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vllm_service.routing.catalogs import catalog, facts, router
from vllm_service.catalog.model import Catalog, Offer, PublicModel
from vllm_service.domain.plan import Step
from vllm_service.domain.pricing import TokenPrice
from vllm_service.domain.usage import Usage
from vllm_service.routing.capacity import Endpoint
from vllm_service.routing.estimates import AnswerLengths, Line, Mean
from vllm_service.routing.profiles import EndpointProfile, LatencyTarget
from vllm_service.routing.router import CostRouter


def endpoint() -> Endpoint:
    return Endpoint("own", EndpointProfile(), 0.0003, margin=0.9, miss_budget=0.01)


def test_a_mean_moves_from_its_guess_to_what_is_observed() -> None:
    mean = Mean(10.0, trust=1.0)
    mean.add(20.0)
    assert mean.value == 15.0
    for _ in range(500):
        mean.add(20.0)
    assert mean.value == pytest.approx(20.0, rel=1e-3)


def test_a_line_finds_the_measured_speed() -> None:
    line = Line(0.011, 0.0003, 32.0)
    for number in range(3000):
        line.add(number % 32, 0.02 + 0.001 * (number % 32))
    assert line.intercept == pytest.approx(0.02, rel=0.02)
    assert line.slope == pytest.approx(0.001, rel=0.02)


def test_answer_lengths_are_learned_per_key_and_never_exceed_max_tokens() -> None:
    lengths = AnswerLengths()
    for _ in range(300):
        lengths.add("short", "chat.completions", 10)
        lengths.add("long", "chat.completions", 1000)
    assert lengths.expect("short", "chat.completions", None) == pytest.approx(10, abs=5)
    assert lengths.expect("long", "chat.completions", None) == pytest.approx(1000, abs=50)
    assert lengths.expect("long", "chat.completions", 7) == 7


def test_a_provider_that_caches_prompts_becomes_cheaper() -> None:
    offers = (
        Offer("cheap", "m-cheap", TokenPrice.per_million("0.10", "0.20")),
        Offer("dear", "m-dear", TokenPrice.per_million("0.12", "0.20", "0.01")),
    )
    known = catalog()
    made = CostRouter(Catalog(known.providers, {"m": PublicModel("m", offers)}))
    assert made.plan(facts(), 0.0).steps[0].provider == "cheap"
    for number in range(20):
        request = facts(1000 + number)
        step = made.plan(request, 0.0).steps[1]
        attempt = made.started(step, request, 0.0)
        attempt.succeeded(Usage(1000, 10, cached_tokens=900), 1.0)
        if step.provider != "dear":
            break
    assert made.plan(facts(), 0.0).steps[0].provider == "dear"


def test_the_wait_for_a_connection_is_not_learned_as_the_offers_own_time() -> None:
    learned = []
    for waited, first_token_at in ((0.0, 1.0), (30.0, 31.0)):
        made, request = router(), facts()
        step = made.plan(request, 0.0).steps[0]
        attempt = made.started(step, request, 0.0)
        attempt.waited(waited)
        attempt.first_token(first_token_at)
        learned.append(attempt.candidate.first_token_seconds.expect(request.organisation))
    assert learned[0] == learned[1]


def test_retry_after_sends_requests_elsewhere_until_then() -> None:
    made, request = router(), facts()
    step = made.plan(request, 0.0).steps[0]
    attempt = made.started(step, request, 0.0)
    attempt.failed(429, 30.0, 1.0)
    assert made.plan(request, 2.0).steps[0].provider == "dear"
    assert made.plan(request, 31.5).steps[0].provider == "cheap"


def test_a_cold_start_is_measured_from_the_order_to_the_first_report_of_a_worker() -> None:
    own = endpoint()
    own.set_target(1, 100.0)
    for _ in range(3):
        own.observe({"workers": {"initializing": 1}}, 120.0)
    own.observe({"workers": {"idle": 1}}, 163.0)  # 60 seconds, and seen three seconds late
    assert own.cold_start.value == pytest.approx((2 * 30.0 + 60.0) / 3)


def test_a_report_that_is_older_than_the_order_to_leave_does_not_bring_a_worker_back() -> None:
    own = endpoint()
    own.set_target(2, 0.0)
    own.observe({"workers": {"ready": 2}}, 40.0)
    own.set_target(1, 50.0)
    own.set_target(2, 51.0)
    own.observe({"workers": {"ready": 2}}, 52.0)
    assert own.serving == 1
    own.observe({"workers": {"ready": 2}}, 54.0)
    assert own.serving == 2


def test_the_platforms_queue_is_mirrored() -> None:
    own = endpoint()
    own.observe({"workers": {"idle": 2}}, 0.0)
    own.sent(8000, 0.0)  # one second of reading
    assert own.first_token_seconds(4000, 0.0) == pytest.approx(0.15 + 0.5)  # by the other worker
    own.sent(8000, 0.0)
    assert own.first_token_seconds(4000, 0.0) == pytest.approx(1.0 + 0.15 + 0.5)
    assert own.first_token_seconds(4000, 0.6) == pytest.approx(0.4 + 0.15 + 0.5)


def test_late_answers_lower_the_margin_and_timely_ones_raise_it() -> None:
    own = endpoint()
    before = own.margin
    own.judged(in_time=False)
    lowered = own.margin
    own.judged(in_time=True)
    assert lowered < before
    assert lowered < own.margin < before


def test_slots_are_a_limit() -> None:
    own = endpoint()
    own.observe({"workers": {"idle": 1}}, 0.0)
    for _ in range(32):
        own.sent(1, 0.0)
    assert not own.accepts(LatencyTarget(ttft_seconds=100.0), 1, 0, 1.0, 0.0)
    own.left()
    assert own.accepts(LatencyTarget(ttft_seconds=100.0), 1, 0, 1.0, 0.0)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 50) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["workers", "idle", "running", "ready", "x"]), inner)
    ),
)


@given(st.lists(JSON, max_size=5))
def test_any_health_report_leaves_counts_that_make_sense(reports: list[object]) -> None:
    made = router()
    for number, report in enumerate(reports):
        made.observe_health("own", report, float(number))  # type: ignore[arg-type]  # the platform sends what it likes
    assert made.endpoints["own"].warm >= 0
    assert made.plan(facts(), 10.0).steps


def test_whole_answers_say_nothing_of_how_fast_prompts_are_read_and_tokens_come() -> None:
    made = router(warm=1)
    own = made.endpoints["own"]
    before = (own.read_seconds.at(1000), own.token_seconds.at(1))
    for second in range(50):
        request = facts(1000, stream=False)
        step = Step("own", "org/m")
        attempt = made.started(step, request, second * 100.0)
        attempt.first_token(second * 100.0 + 9.0)
        attempt.succeeded(Usage(1000, 100), second * 100.0 + 9.0)
    assert (own.read_seconds.at(1000), own.token_seconds.at(1)) == before
    assert own.in_flight == 0
    assert own.unread_tokens == 0
