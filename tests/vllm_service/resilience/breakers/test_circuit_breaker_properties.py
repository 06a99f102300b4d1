"""Whatever happens in whatever order, the breaker does what a slow and simple model of it does."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from vllm_service.domain.breakers import BreakerState
from vllm_service.resilience.breakers.breaker_settings import BreakerSettings
from vllm_service.resilience.breakers.circuit_breaker import CircuitBreaker
from vllm_service.resilience.breakers.probes import Admission

SETTINGS = BreakerSettings(
    consecutive_failures=3,
    minimum_requests=1000,
    open_seconds=8,
    longest_open_seconds=32,
    successes_to_close=2,
    probe_seconds=1e9,
    throttled_seconds=1e9,
)


@dataclass
class Model:
    """Says it with lists and no cleverness. `era` changes whenever what was sent before no longer counts."""

    state: str = "closed"
    shut_until: float = 0
    era: int = 0
    failures: int = 0
    openings: int = 0
    successes: int = 0
    probing: int | None = None
    sent: dict[int, tuple[int, bool]] = field(default_factory=dict)

    def look(self, now: float) -> str:
        if self.state in ("open", "resting") and now >= self.shut_until:
            self.state = "half_open" if self.state == "open" else "closed"
        return self.state

    def open(self, now: float, rest: float) -> None:
        self.state, self.era, self.probing, self.successes = "open", self.era + 1, None, 0
        self.shut_until = now + max(rest, min(8 * 2**self.openings, 32))
        self.openings += 1

    def end(self, number: int, status: int, rest: float, now: float) -> None:
        era, is_probe = self.sent.pop(number)
        if era != self.era or (is_probe and self.probing != number):
            return
        if is_probe:
            self.probing = None
        if status == 200:
            self.succeed(is_probe)
        elif status == 429 and is_probe:
            self.openings = max(0, self.openings - 1)
            self.open(now, rest)
        elif status in (0, 500):
            self.failures += 1
            if is_probe or self.failures >= 3:
                self.open(now, rest)
        if status not in (200, 400, 499) and self.state in ("closed", "resting") and rest:
            self.shut_until = max(now + rest, self.shut_until if self.state == "resting" else 0)
            self.state = "resting"

    def succeed(self, is_probe: bool) -> None:
        if not is_probe:
            self.failures = 0
            return
        self.successes += 1
        if self.successes >= 2:
            self.state, self.era = "closed", self.era + 1
            self.failures = self.openings = self.successes = 0


class Breaking(RuleBasedStateMachine):
    """Requests are sent and end in any order while time passes."""

    requests: Bundle[tuple[int, Admission]] = Bundle("requests")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.number = 0
        self.model = Model()
        self.real = CircuitBreaker("p", "m", SETTINGS, lambda change: None)
        self.probes: set[int] = set()

    @rule(target=requests)
    def send(self) -> tuple[int, Admission]:
        state = self.model.look(self.now)
        expected = state == "closed" or (state == "half_open" and self.model.probing is None)
        assert self.real.allows(self.now) is expected
        admission = self.real.admit(self.now)
        assert (admission is not None) is expected
        self.number += 1
        if admission is None:
            return self.number, Admission(-1)
        assert admission.is_probe is (state == "half_open")
        self.model.sent[self.number] = self.model.era, admission.is_probe
        if admission.is_probe:
            self.model.probing = self.number
        return self.number, admission

    @rule(
        request=consumes(requests),
        status=st.sampled_from([200, 200, 0, 500, 500, 429, 400, 499]),
        rest=st.sampled_from([0.0, 0.0, 5.0, 50.0]),
    )
    def end(self, request: tuple[int, Admission], status: int, rest: float) -> None:
        number, admission = request
        if number not in self.model.sent:
            return
        self.model.look(self.now)
        self.real.state(self.now)
        self.model.end(number, status, rest, self.now)
        if status == 200:
            self.real.succeeded(admission, self.now)
        elif status == 499:
            self.real.cancelled(admission)
        else:
            self.real.failed(admission, status, rest or None, self.now)

    @rule(seconds=st.sampled_from([0.5, 1.0, 4.0, 8.0, 64.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def agree(self) -> None:
        assert self.real.state(self.now) is BreakerState(self.model.look(self.now))


TestBreaking = Breaking.TestCase
TestBreaking.settings = hypothesis_settings(max_examples=150, stateful_step_count=40, deadline=None)
