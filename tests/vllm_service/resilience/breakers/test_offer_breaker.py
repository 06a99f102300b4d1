"""What one organisation's requests provoke at a provider shuts it for that organisation alone."""

from __future__ import annotations

import pytest

from vllm_service.domain.breakers import BreakerChange, BreakerState
from vllm_service.resilience.breakers.breaker_settings import BreakerSettings
from vllm_service.resilience.breakers.offer_breaker import LOOK_SECONDS, MOST_ORGANISATIONS, OfferBreaker
from vllm_service.resilience.breakers.probes import Admission

SETTINGS = BreakerSettings(
    consecutive_failures=3, minimum_requests=10, open_seconds=10, longest_open_seconds=40, throttled_seconds=20
)
CLOSED, RESTING, OPEN, HALF_OPEN = BreakerState


class Place:
    """An offer's breaker with its clock."""

    def __init__(self, settings: BreakerSettings = SETTINGS) -> None:
        self.now = 1000.0
        self.changes: list[BreakerChange] = []
        self.breaker = OfferBreaker("p", "m", settings, self.changes.append)

    def sends(self, organisation: str, *statuses: int, retry_after: float | None = None) -> None:
        for status in statuses:
            self.ends(organisation, self.admitted(organisation), status, retry_after)

    def admitted(self, organisation: str) -> Admission:
        admission = self.breaker.admit(self.now, organisation)
        assert admission is not None
        return admission

    def ends(self, organisation: str, admission: Admission, status: int, retry_after: float | None = None) -> None:
        if status == 200:
            self.breaker.first_content(admission, self.now, organisation)
            self.breaker.succeeded(admission, self.now, organisation)
        else:
            self.breaker.failed(admission, status, retry_after, self.now, organisation)

    def looks_at_none(self) -> bool:
        """Whether requests pass without a look at any organisation."""
        return self.breaker.while_closed is not None

    def refuses(self, organisation: str) -> bool:
        return not self.breaker.allows(self.now, organisation)

    def opened_for_everyone(self) -> None:
        for organisation in ("a", "b"):
            self.sends(organisation, 500, 500, 500)
        assert self.breaker.state(self.now) is OPEN


@pytest.fixture
def place() -> Place:
    return Place()


@pytest.mark.parametrize("status", [0, 401, 500, 503, 504])
def test_failures_of_one_organisation_shut_the_offer_for_that_one_alone(place: Place, status: int) -> None:
    place.sends("attacker", status, status, status)
    assert place.refuses("attacker")
    assert not place.refuses("good")
    assert place.breaker.state(place.now) is CLOSED
    assert [change.organisation for change in place.changes] == ["attacker"]


def test_requests_under_way_when_an_organisation_was_shut_out_shut_it_for_no_other(place: Place) -> None:
    under_way = [place.admitted("attacker") for _ in range(100)]
    for admission in under_way:
        place.ends("attacker", admission, 500)
    assert not place.refuses("good")


def test_a_dead_provider_is_shut_for_everyone_once_others_have_failed_as_often(place: Place) -> None:
    place.sends("a", 500, 500, 500)
    place.sends("b", 500, 500)
    assert not place.refuses("c")
    place.sends("b", 500)
    assert place.refuses("c")
    assert place.breaker.state(place.now) is OPEN


def test_single_failures_of_many_organisations_shut_it_for_everyone(place: Place) -> None:
    for name in "abcd":
        place.sends(name, 500)
    assert place.refuses("e")


def test_a_success_of_anyone_in_between_shows_that_the_provider_is_sound(place: Place) -> None:
    for round_ in range(20):
        place.sends(f"a{round_}", 500)
        place.sends(f"b{round_}", 500)
        place.sends("good", 200, 200, 200)
    assert place.breaker.state(place.now) is CLOSED


def test_a_share_of_failures_opens_it_for_everyone_once_it_is_reached_without_the_loudest_organisation(
    place: Place,
) -> None:
    for _ in range(2):
        place.sends("loud", 500, 500, 200)
    assert not place.refuses("good")
    for number in range(3):
        place.sends(f"other{number}", 500, 500)
        if number < 2:
            place.sends("good", 200)
    assert place.breaker.state(place.now) is OPEN


def test_half_of_one_organisations_failures_never_opens_it_for_others(place: Place) -> None:
    for _ in range(200):
        if not place.refuses("attacker"):
            place.sends("attacker", 500)
        place.sends("good", 200)
        place.now += 0.5
    assert place.breaker.state(place.now) is CLOSED


def test_a_probe_that_one_organisation_makes_fail_does_not_shut_the_offer_again(place: Place) -> None:
    place.opened_for_everyone()
    place.now += SETTINGS.open_seconds
    place.sends("attacker", 500)
    assert place.refuses("attacker"), "its next probe has to wait"
    assert place.breaker.state(place.now) is HALF_OPEN
    place.sends("good", 200, 200)
    assert place.breaker.state(place.now) is CLOSED


def test_probes_of_two_organisations_that_fail_shut_it_for_twice_as_long(place: Place) -> None:
    place.opened_for_everyone()
    place.now += SETTINGS.open_seconds
    place.sends("c", 500)
    place.sends("d", 500)
    assert place.breaker.state(place.now) is OPEN
    assert place.breaker.seconds_shut(place.now) == 2 * SETTINGS.open_seconds


def test_a_slow_probe_of_one_organisation_keeps_no_other_from_probing(place: Place) -> None:
    place.opened_for_everyone()
    place.now += SETTINGS.open_seconds
    place.admitted("attacker")
    assert place.refuses("attacker")
    probe = place.admitted("good")
    assert place.refuses("third"), "two at a time are enough"
    place.ends("good", probe, 200)
    place.sends("good", 200)
    assert place.breaker.state(place.now) is CLOSED


def test_a_429_rests_the_offer_for_the_one_that_got_it(place: Place) -> None:
    place.sends("attacker", 429, retry_after=3600)
    assert place.refuses("attacker")
    assert not place.refuses("good")


def test_429s_of_two_organisations_rest_it_for_everyone_for_the_shorter_time(place: Place) -> None:
    place.sends("attacker", 429, retry_after=3600)
    place.sends("good", 429, retry_after=7)
    assert place.breaker.state(place.now) is RESTING
    assert place.refuses("third")
    place.now += 7
    assert not place.refuses("third")
    assert place.refuses("attacker")


def test_429s_and_nothing_else_open_it_for_everyone_only_where_several_organisations_get_them(place: Place) -> None:
    for _ in range(10):
        if not place.refuses("attacker"):
            place.sends("attacker", 429)
        place.now += SETTINGS.throttled_seconds
    assert not place.refuses("good")
    place = Place()
    for name in "abab":
        place.sends(name, 429, 429)
    place.now += SETTINGS.throttled_seconds
    place.sends("c", 429)
    assert place.breaker.state(place.now) is OPEN


def test_organisations_whose_failures_are_over_are_forgotten(place: Place) -> None:
    place.sends("one", 500, 200)
    assert not place.looks_at_none()
    place.now += SETTINGS.window_seconds + LOOK_SECONDS
    place.sends("another", 200)
    assert place.looks_at_none()
    place.sends("gone", 500, 500, 500)
    place.now += SETTINGS.longest_open_seconds + LOOK_SECONDS
    place.sends("another", 200)
    assert place.looks_at_none()
    assert (place.changes[-1].organisation, place.changes[-1].after) == ("gone", CLOSED)


def test_what_is_kept_of_organisations_is_bounded(place: Place) -> None:
    for number in range(MOST_ORGANISATIONS * 2):
        place.sends(f"organisation {number}", 500)
        place.sends("good", 200, 200, 200)
    assert place.breaker.organisations_shut_out(place.now) == 0
    assert len(place.breaker._organisations) == MOST_ORGANISATIONS


def test_requests_without_an_organisation_are_of_one_caller_and_shut_the_offer_at_once(place: Place) -> None:
    place.sends("", 500, 500, 500)
    assert place.breaker.state(place.now) is OPEN


def test_a_change_that_another_replica_saw_for_one_organisation_holds_for_that_one_alone(place: Place) -> None:
    change = BreakerChange("p", "m", CLOSED, OPEN, "elsewhere", 10, 3, from_elsewhere=True, organisation="attacker")
    place.breaker.apply(change, place.now)
    assert place.refuses("attacker")
    assert not place.refuses("good")


def test_the_breaker_of_an_organisation_is_the_one_that_keeps_it_away(place: Place) -> None:
    place.sends("attacker", 500, 500, 500)
    assert place.breaker.for_organisation("attacker", place.now).seconds_shut(place.now) == SETTINGS.open_seconds
    assert place.breaker.for_organisation("good", place.now) is place.breaker
