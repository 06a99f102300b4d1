"""What wakes workers: requests that are answered, and one organisation's no further than its share or its own money."""

from __future__ import annotations

import pytest

from tests.vllm_service.routing.catalogs import facts, router
from vllm_service.domain.plan import Plan
from vllm_service.routing.demand.counterfactual import Demand, Speeds
from vllm_service.routing.demand.endpoint_demand import EndpointDemand
from vllm_service.routing.demand.organisations import Organisations
from vllm_service.routing.profiles import LatencyTarget

SPEEDS = Speeds(0.05, 0.0002, 0.02, 0.0001, 0.5, 16)
SECOND_USD = 0.0005
COLD, IDLE = 30.0, 5.0
START_USD = SECOND_USD * (COLD + IDLE)
WORKERS = 6


class Endpoint:
    """Requests of organisations, each of which ends so many seconds after it was planned."""

    def __init__(self) -> None:
        self.demand = EndpointDemand(WORKERS, SECOND_USD)
        self._open: list[tuple[float, Demand, bool]] = []

    def plan(self, at: float, organisation: str, *, ends_after: float, is_answered: bool) -> None:
        demand = Demand(at, 400_000_000, 800, 200.0, LatencyTarget(), organisation, log=self.demand.log)
        self.demand.demand(demand)
        self._open.append((at + ends_after, demand, is_answered))

    def decide(self, now: float) -> int:
        for _, demand, is_answered in [one for one in self._open if one[0] <= now]:
            demand.ended(is_answered=is_answered)
        self._open = [one for one in self._open if one[0] > now]
        return self.demand.decide(now, COLD, IDLE, SPEEDS, 0.0)


def most_wanted(seconds: int, *callers: tuple[str, int, float, bool]) -> int:
    """The most workers wanted. callers: organisation, requests a second, seconds until their end, answered."""
    endpoint = Endpoint()
    wanted = 0
    for second in range(seconds):
        for number in range(40):
            for organisation, rate, ends_after, is_answered in callers:
                if number < rate:
                    endpoint.plan(second + number / 40, organisation, ends_after=ends_after, is_answered=is_answered)
        wanted = max(wanted, endpoint.decide(second + 1.0))
    return wanted


def test_one_organisation_whose_requests_are_answered_gets_all_that_they_are_worth() -> None:
    """A single tenant with one key is all of the traffic."""
    without_keys = most_wanted(120, ("", 40, 2.0, True))
    assert without_keys > WORKERS // 2
    assert most_wanted(120, ("acme", 40, 2.0, True)) == without_keys


@pytest.mark.parametrize("seconds", [0.001, 0.5, 1.0])
def test_requests_that_come_to_nothing_at_once_wake_no_worker(seconds: float) -> None:
    assert most_wanted(300, ("attacker", 40, seconds, False)) == 0


def test_slow_requests_that_come_to_nothing_wake_no_more_than_a_share() -> None:
    """They speak for workers until they are cut, and for less and less after that."""
    assert most_wanted(600, ("attacker", 40, 60.0, False)) <= WORKERS // 2
    assert most_wanted(600, ("attacker", 40, 10.0, False)) <= WORKERS // 2


def test_it_ends_what_it_has_woken() -> None:
    endpoint = Endpoint()
    wanted = []
    for second in range(900):
        for number in range(40):
            endpoint.plan(second + number / 40, "attacker", ends_after=60.0, is_answered=False)
        wanted.append(endpoint.decide(second + 1.0))
    assert max(wanted[600:]) == 0


def test_another_ones_failures_take_nothing_of_what_a_good_one_wants() -> None:
    alone = most_wanted(120, ("acme", 20, 2.0, True))
    beside = most_wanted(120, ("acme", 20, 2.0, True), ("attacker", 20, 0.5, False))
    assert alone == beside > 0


def test_what_was_taken_back_leaves_no_demand() -> None:
    demand = EndpointDemand(WORKERS, SECOND_USD)
    one = Demand(0.5, 400_000_000, 800, 200.0, LatencyTarget(), "acme", log=demand.log)
    demand.demand(one)
    one.ended(is_answered=False)
    one.ended(is_answered=True)
    demand.decide(1.0, COLD, IDLE, SPEEDS, 0.0)
    assert (one.is_withdrawn, one.taken_usd, demand.load_workers) == (True, None, 0.0)


def _ended(organisation: str, usd: float, *, is_answered: bool) -> Demand:
    return Demand(0.0, int(usd * 1e12), 1, 1.0, LatencyTarget(), organisation, is_withdrawn=not is_answered)


@pytest.mark.parametrize(
    ("share", "answered_usd", "organisation", "most"),
    [
        (0.5, 0.0, "acme", 5),
        (0.5, 7 * START_USD, "acme", 7),
        (0.5, 70 * START_USD, "acme", 10),
        (0.0, 0.0, "acme", 1),
        (1.0, 0.0, "acme", 10),
        (0.5, 0.0, "", 10),
        (0.0, 3 * START_USD, "other", 1),
    ],
)
def test_the_most_workers_of_one_organisation(share: float, answered_usd: float, organisation: str, most: int) -> None:
    organisations = Organisations(10, share)
    organisations.take([_ended("acme", answered_usd * 1.001, is_answered=True)], 1.0)
    assert organisations.most_workers(organisation, START_USD) == most


def test_a_dollar_of_one_that_fails_counts_less_and_the_past_is_forgotten() -> None:
    organisations = Organisations(10, 0.5)
    assert organisations.weight("acme", START_USD) == 1.0
    organisations.take([_ended("acme", 9 * START_USD, is_answered=False)], 1.0)
    assert organisations.weight("acme", START_USD) == pytest.approx(0.1)
    assert organisations.weight("other", START_USD) == 1.0
    organisations.take([_ended("acme", START_USD, is_answered=True)], 7200.0)
    assert organisations.weight("acme", START_USD) > 0.99


def test_few_organisations_are_remembered() -> None:
    organisations = Organisations(10, 0.5)
    organisations.take([_ended(f"org-{number}", 1.0, is_answered=False) for number in range(20_000)], 1.0)
    assert organisations.weight("org-0", START_USD) == 1.0
    assert organisations.weight("org-19999", START_USD) < 0.1


def planned(organisation: str = "acme") -> tuple[EndpointDemand, Plan]:
    made = router()
    plan = made.plan(facts(organisation=organisation), 1.0)
    (demand,) = made.controllers.values()
    return demand, plan


def test_a_plan_ends_the_demand_that_it_made() -> None:
    demand, plan = planned()
    assert not demand.is_quiet
    plan.ended(is_answered=False)
    assert [one.is_withdrawn for one in demand.log.ended] == [True]
    demand, plan = planned()
    plan.ended(is_answered=True)
    plan.ended(is_answered=False)
    assert [one.is_withdrawn for one in demand.log.ended] == [False]
