"""Whatever one organisation makes a sound provider answer, in whatever order, the others' requests go there."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from vllm_service.domain.breakers import BreakerState
from vllm_service.domain.plan import Step
from vllm_service.resilience.breakers.breaker_settings import BreakerSettings
from vllm_service.resilience.breakers.probes import Admission
from vllm_service.resilience.breakers.shared import Breakers

SETTINGS = BreakerSettings()
STEP = Step("provider", "model")
ATTACKER = "attacker"
#: All that a caller may provoke: no answer, every status with a blame, its own deadline or leaving (499), an answer.
STATUSES = st.sampled_from([0, 0, 500, 500, 503, 504, 408, 401, 402, 429, 429, 400, 499, 200])
RESTS = st.sampled_from([None, None, 0.5, 30.0, 1e9])
SECONDS = st.sampled_from([0.0, 0.0, 0.1, 1.0, 9.0, 10.0, 31.0, 150.0, 301.0])


@dataclass
class World:
    """One offer, a clock, and what the attacker has under way."""

    breakers: Breakers = field(default_factory=lambda: Breakers(SETTINGS))
    now: float = 1000.0
    under_way: list[Admission] = field(default_factory=list)

    def admit(self, organisation: str) -> Admission | None:
        return self.breakers.admit(STEP, self.now, organisation)

    def end(self, organisation: str, admission: Admission, status: int, rest: float | None = None) -> None:
        breaker = self.breakers.of(STEP.provider, STEP.model)
        if status == 200:
            breaker.first_content(admission, self.now, organisation)
            breaker.succeeded(admission, self.now, organisation)
        elif status == 499:
            breaker.cancelled(admission, organisation)
        else:
            breaker.failed(admission, status, rest, self.now, organisation)

    def attack(self, status: int, rest: float | None, *, at_once: bool) -> None:
        """Sends a request, and ends it or one that was sent long ago."""
        if (admission := self.admit(ATTACKER)) is not None:
            self.under_way.append(admission)
        if self.under_way:
            self.end(ATTACKER, self.under_way.pop(-1 if at_once else 0), status, rest)


moves = st.lists(st.tuples(st.integers(0, 3), STATUSES, RESTS, SECONDS, st.booleans(), st.integers(1, 30)), max_size=80)


@given(moves)
@hypothesis_settings(max_examples=400, deadline=None)
def test_no_request_of_others_is_refused_at_a_sound_provider(
    steps: list[tuple[int, int, float | None, float, bool, int]],
) -> None:
    world = World()
    for good, status, rest, seconds, at_once, times in steps:
        for _ in range(times):
            world.attack(status, rest, at_once=at_once)
        world.now += seconds
        assert world.breakers.may_try(STEP.provider, STEP.model, world.now, "somebody new")
        if good:
            admission = world.admit(f"good {good}")
            assert admission is not None
            world.end(f"good {good}", admission, 200)
    states = world.breakers.states(world.now)
    assert set(states.values()) <= {BreakerState.CLOSED}, "health and readiness see no failure"


@given(moves)
@hypothesis_settings(max_examples=200, deadline=None)
def test_an_offer_that_was_shut_for_everyone_is_found_sound_again_beside_the_attacker(
    steps: list[tuple[int, int, float | None, float, bool, int]],
) -> None:
    world = World()
    for name in ("a", "b"):
        for _ in range(SETTINGS.consecutive_failures):
            admission = world.admit(name)
            assert admission is not None
            world.end(name, admission, 500)
    assert world.breakers.states(world.now)[STEP.provider, STEP.model] is BreakerState.OPEN
    world.now += SETTINGS.open_seconds
    for _, status, rest, seconds, at_once, times in steps:
        for _ in range(times):
            world.attack(status, rest, at_once=at_once)
        world.now += seconds
    for _ in range(SETTINGS.successes_to_close):
        admission = world.admit("good")
        assert admission is not None, "the attacker holds no more than its own probe"
        world.end("good", admission, 200)
    assert world.breakers.states(world.now)[STEP.provider, STEP.model] is BreakerState.CLOSED


@given(st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), min_size=200, max_size=400), st.sampled_from([0, 500, 504]))
@hypothesis_settings(max_examples=100, deadline=None)
def test_a_dead_provider_gets_few_requests_whoever_sends_them(callers: list[str], status: int) -> None:
    world = World()
    sent = 0
    for caller in callers:
        if (admission := world.admit(caller)) is not None:
            world.end(caller, admission, status)
            sent += 1
    # Without the loudest organisation five have failed; the loudest fails five times itself before it is shut out.
    assert sent <= 2 * SETTINGS.consecutive_failures
    assert not world.breakers.may_try(STEP.provider, STEP.model, world.now, "a")


@given(st.sampled_from([0, 500, 504]), st.sampled_from(["", "the only one"]))
def test_a_dead_provider_gets_five_requests_of_a_single_organisation(status: int, only: str) -> None:
    world = World()
    for _ in range(SETTINGS.consecutive_failures):
        admission = world.admit(only)
        assert admission is not None
        world.end(only, admission, status)
    assert world.admit(only) is None
