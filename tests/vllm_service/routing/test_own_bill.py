"""What a router thinks that its own workers cost: those that it asked for and got, whoever else has some."""

from __future__ import annotations

from types import MappingProxyType

import pytest

from tests.vllm_service.routing.catalogs import facts, router
from vllm_service.domain.plan import ListedWorkers
from vllm_service.domain.usage import Usage
from vllm_service.routing.capacity import Endpoint
from vllm_service.routing.demand.endpoint_demand import EndpointDemand
from vllm_service.routing.profiles import EndpointProfile, RouterSettings

SECOND_USD = 0.0003


def endpoint() -> Endpoint:
    return Endpoint("own", EndpointProfile(), SECOND_USD, margin=0.9, miss_budget=0.006)


def test_workers_of_another_replica_are_not_on_its_bill_and_do_not_keep_it_from_asking_for_its_own() -> None:
    made, wanted = router(), []
    for second in range(300):
        made.observe_health("own", {"workers": {"idle": 3}}, float(second))
        wanted.append(made.worker_targets(float(second))[0].workers)
        if second == 60:
            assert made.endpoints["own"].billed_usd(60.0) == 0.0
        for number in range(10 if second > 60 else 0):
            made.plan(facts(prompt_tokens=500), second + number / 20)
    assert max(wanted[:61]) == 0
    assert wanted[-1] >= 1


def test_what_was_asked_for_is_billed_from_then_on() -> None:
    own = endpoint()
    own.set_target(2, 0.0)
    own.observe({"workers": {"initializing": 2}}, 20.0)
    own.observe({"workers": {"idle": 2}}, 40.0)
    assert own.billed_usd(50.0) == pytest.approx(2 * 50.0 * SECOND_USD)


def test_what_never_comes_is_not_billed_for_ever() -> None:
    """A warm worker takes the warm-up job that was to raise the number: one of three is there."""
    own = endpoint()
    own.observe({"workers": {"idle": 1}}, 0.0)
    own.set_target(3, 0.0)
    for second in range(1, 1001):
        own.observe({"workers": {"running": 1}}, float(second))
    before = own.billed_usd(1000.0)
    own.observe({"workers": {"running": 1}}, 1010.0)
    assert own.billed_usd(1010.0) - before == pytest.approx(10.0 * SECOND_USD)


def test_a_worker_that_is_always_on_is_used_at_once_and_is_not_on_the_bill() -> None:
    profiles = MappingProxyType({"own": EndpointProfile(always_on_workers=1)})
    made = router(warm=1, settings=RouterSettings(profiles=profiles, max_steps=4))
    for second in range(30):
        (target,) = made.worker_targets(float(second))
        assert (target.workers, target.always_on) == (1, 1)
        asked = facts()
        step = made.plan(asked, float(second)).steps[0]
        assert step.provider == "own"
        attempt = made.started(step, asked, float(second))
        attempt.succeeded(Usage(1000, 50), second + 0.5)
    assert made.endpoints["own"].billed_usd(30.0) == 0.0


def test_each_target_has_what_the_workers_have_cost_so_far() -> None:
    made = router()
    made.endpoints["own"].set_target(1, 0.0)
    made.observe_health("own", {"workers": {"idle": 1}}, 10.0)
    assert made.worker_targets(20.0)[0].estimated_usd == pytest.approx(20.0 * made.endpoints["own"].usd_per_second)


def test_what_is_asked_for_beyond_those_that_are_always_on_is_billed_and_leaves_alone() -> None:
    own = Endpoint("own", EndpointProfile(always_on_workers=1), SECOND_USD, margin=0.9, miss_budget=0.006)
    own.observe({"workers": {"idle": 1}}, 0.0)
    own.set_target(3, 0.0)
    own.observe({"workers": {"idle": 3}}, 40.0)
    assert own.billed_usd(40.0) == pytest.approx(2 * 40.0 * SECOND_USD)
    assert own.share_paid_for_it == pytest.approx(2 / 3)
    own.set_target(1, 40.0)
    assert own.serving == 1
    own.observe({"workers": {"idle": 3}}, 41.0)  # seen late
    assert own.serving == 1
    idle_seconds = 2 * own.profile.idle_timeout_seconds
    assert own.billed_usd(100.0) == pytest.approx((2 * 40.0 + idle_seconds) * SECOND_USD)


class Heard(EndpointDemand):
    """Keeps what it is told that workers have saved."""

    def __init__(self) -> None:
        super().__init__(10, SECOND_USD)
        self.saved_usd: list[float] = []

    def took(self, usd: float) -> None:
        self.saved_usd.append(usd)


@pytest.mark.parametrize(("always_on", "share"), [(0, 1.0), (1, 0.5), (2, 0.0)])
def test_only_what_workers_that_were_asked_for_have_saved_makes_up_for_losses(always_on: int, share: float) -> None:
    profiles = MappingProxyType({"own": EndpointProfile(always_on_workers=always_on)})
    made = router(warm=2, settings=RouterSettings(profiles=profiles, max_steps=4))
    heard = made.controllers["own"] = Heard()
    asked = facts()
    plan = made.plan(asked, 0.0)
    hosted = next(step.cost_picousd for step in plan.steps if step.provider == "cheap")
    made.started(plan.steps[0], asked, 0.0)
    assert hosted is not None
    assert heard.saved_usd == [pytest.approx(share * hosted / 1e12)]


def test_more_workers_that_are_always_on_than_there_may_be_are_refused() -> None:
    with pytest.raises(ValueError, match="max_workers"):
        EndpointProfile(max_workers=1, always_on_workers=2)


def test_the_price_follows_the_workers_and_what_was_billed_before_stays() -> None:
    own = endpoint()
    own.set_target(1, 0.0)
    own.observe({"workers": {"idle": 1}}, 10.0, ListedWorkers((), SECOND_USD))
    own.observe({"workers": {"idle": 1}}, 20.0, ListedWorkers((), 2 * SECOND_USD))
    assert own.billed_usd(30.0) == pytest.approx(20.0 * SECOND_USD + 10.0 * 2 * SECOND_USD)
    own.observe({"workers": {"idle": 1}}, 40.0, ListedWorkers((), None))  # its GPU is not known
    own.observe({"workers": {"idle": 1}}, 50.0)
    assert own.billed_usd(60.0) == pytest.approx(20.0 * SECOND_USD + 40.0 * 2 * SECOND_USD)


def test_an_endpoint_is_configured_as_before_whatever_its_workers_got() -> None:
    own = endpoint()
    own.observe({"workers": {"idle": 1}}, 10.0, ListedWorkers((), 2 * SECOND_USD))
    assert own.is_configured_as(endpoint())


def test_dearer_workers_are_wanted_less() -> None:
    """The traffic pays a worker at the configured price, and not one at a hundred times that."""

    def wanted(usd_per_second: float) -> int:
        made = router()
        most = 0
        for second in range(120):
            made.observe_health("own", {"workers": {"idle": 0}}, float(second), ListedWorkers((), usd_per_second))
            for number in range(10):
                made.plan(facts(prompt_tokens=500), second + number / 20)
            most = max(most, made.worker_targets(float(second))[0].workers)
        return most

    assert wanted(SECOND_USD) >= 1
    assert wanted(100 * SECOND_USD) == 0


def test_a_worker_that_waits_for_a_gpu_is_not_billed() -> None:
    own = endpoint()
    own.set_target(2, 0.0)
    own.observe({"workers": {"initializing": 1, "throttled": 1}}, 10.0)
    before = own.billed_usd(10.0)
    own.observe({"workers": {"idle": 1, "throttled": 1}}, 40.0)
    assert own.billed_usd(40.0) - before == pytest.approx(30.0 * SECOND_USD)


@pytest.mark.parametrize(
    ("listed", "learned"),
    [
        (None, 27.0),  # from the order, less what the report is late
        (ListedWorkers(None), 27.0),
        (ListedWorkers((20.0,)), 20.0),
        (ListedWorkers(()), None),
    ],
)
def test_a_cold_start_is_learned_from_the_list_where_there_is_one(
    listed: ListedWorkers | None, learned: float | None
) -> None:
    own, like = endpoint(), endpoint()
    own.set_target(1, 0.0)
    own.observe({"workers": {"idle": 1}}, 30.0, listed)
    if learned is not None:
        like.cold_start.add(learned)
    assert own.cold_start.value == like.cold_start.value
    assert own.cold_start.weight == like.cold_start.weight


def test_a_start_that_no_wake_has_asked_for_teaches_too() -> None:
    own, like = endpoint(), endpoint()
    own.observe({"workers": {"idle": 1}}, 30.0, ListedWorkers((12.0, 14.0)))
    like.cold_start.add(12.0)
    like.cold_start.add(14.0)
    assert own.cold_start.value == like.cold_start.value
