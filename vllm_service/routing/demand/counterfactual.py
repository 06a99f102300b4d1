"""Measures what k always-warm workers would have taken of the real traffic, by replaying its arrivals on paper.

Bursts, long prompts and tight targets count by themselves this way: there is no formula for the share of requests that
workers really accept.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from vllm_service.domain.money import PICOUSD_PER_USD
from vllm_service.routing.profiles import LatencyTarget

#: How many requests are logged between two decisions; the oldest ones beyond that are dropped, so memory is bounded.
MOST_LOGGED = 100_000
#: The span over which a counterfactual worker's recent load is averaged.
_MEMORY_SECONDS = 10.0
#: An answer may be this many times as long as expected and still has to end in time; as capacity.LONGER.
_LONGER = 2.0


class Demand(msgspec.Struct, eq=False):
    """One request as the hot path logs it; everything that follows from it is computed later, off the hot path."""

    at_seconds: float
    #: The marginal cost at the cheapest hosted offer.
    hosted_picousd: int
    prompt_tokens: int
    #: The expected length of the answer.
    completion_tokens: float
    target: LatencyTarget
    organisation: str = ""
    #: Where its end is logged; None: it never ends.
    log: DemandLog | None = None
    #: Whether it came to nothing: cut, refused, or never answered.
    is_withdrawn: bool = False
    #: The dollars that each number of workers would have taken of it; None until a decision has looked at it.
    taken_usd: list[float] | None = None
    _has_ended: bool = False

    @property
    def hosted_usd(self) -> float:
        """The marginal cost in dollars."""
        return self.hosted_picousd / PICOUSD_PER_USD

    def ended(self, *, is_answered: bool) -> None:
        """Implements plan.PlannedDemand."""
        if self._has_ended or self.log is None:
            return
        self._has_ended = True
        self.is_withdrawn = not is_answered
        self.log.ended.append(self)


@dataclass(slots=True)
class DemandLog:
    """The requests that an endpoint could serve since the last decision, and what its workers have saved."""

    requests: deque[Demand] = field(default_factory=lambda: deque(maxlen=MOST_LOGGED))
    #: Those that have ended since then.
    ended: deque[Demand] = field(default_factory=lambda: deque(maxlen=MOST_LOGGED))
    #: What requests that woken workers have taken would have cost at hosted offers, since the beginning.
    saved_usd: float = 0.0


class OfferedRequest(NamedTuple):
    """One request in the units of a worker: what it takes of the worker, and what it is allowed to take."""

    at_seconds: float
    #: What the cheapest hosted offer would take for it.
    usd: float
    #: How long one worker reads its prompt.
    reading_seconds: float
    completion_tokens: float
    #: The longest wait for the first token, reduced by the margin.
    allowed_seconds: float
    #: The promised seconds per output token, reduced by the margin.
    pace_seconds: float


@dataclass(frozen=True, slots=True)
class Speeds:
    """How fast one worker is, as measured. The fields have profiles.EndpointProfile's meanings."""

    overhead_seconds: float
    seconds_per_prompt_token: float
    decode_seconds: float
    decode_seconds_per_batch: float
    prefill_share: float
    slots: int
    #: The share of the target within which answers are predicted; see capacity.Endpoint.
    margin: float = 1.0

    def request_of(self, demand: Demand) -> OfferedRequest:
        """Returns what this request means for a worker of these speeds."""
        prompt_tokens = demand.prompt_tokens
        target = demand.target
        return OfferedRequest(
            demand.at_seconds,
            demand.hosted_usd,
            prompt_tokens * self.seconds_per_prompt_token,
            demand.completion_tokens,
            target.first_token_seconds(prompt_tokens) * self.margin,
            target.seconds_per_output_token * self.margin,
        )


class CounterfactualWorkers:
    """`count` workers that were always warm, and what they would have saved."""

    __slots__ = ("_at", "_reading", "_reads_until", "_token_rate", "count", "usd")

    def __init__(self, count: int) -> None:
        self.count = count
        #: Hosted dollars of the requests that were taken since the caller last set this to zero.
        self.usd = 0.0
        #: Per worker: when it has read all prompts that it took.
        self._reads_until = [0.0] * count
        #: The recent share of their time that all workers together spend on prompts; up to `count`.
        self._reading = 0.0
        #: Recent output tokens per second of all workers together.
        self._token_rate = 0.0
        #: When the two averages above were last brought up to date.
        self._at = 0.0

    def offer(self, request: OfferedRequest, speeds: Speeds) -> bool:
        """Takes the request if its first token and its end would be in time, and returns whether it did.

        Requests come in the order of time.
        """
        now = request.at_seconds
        until = self._reads_until
        if not until:
            return False
        begins = max(now, min(until))
        wait = begins - now + request.reading_seconds + speeds.overhead_seconds
        if wait > request.allowed_seconds:
            return False
        keep = max(0.0, 1.0 - (now - self._at) / _MEMORY_SECONDS)
        # Both are per worker and include this request: it has to be in time in the batch that it makes larger.
        reading = (self._reading * keep + request.reading_seconds / _MEMORY_SECONDS) / self.count
        rate = (self._token_rate * keep + request.completion_tokens / _MEMORY_SECONDS) / self.count
        token = token_seconds(speeds, min(1.0, reading), rate)
        # What the first token leaves of the allowed wait may be used up by tokens slower than the promised pace.
        late = wait + _LONGER * request.completion_tokens * (token - request.pace_seconds) > request.allowed_seconds
        # rate x token is the batch that the tokens settle at (Little's law); it has to fit the slots.
        if late or rate * token > speeds.slots:
            return False
        until[until.index(min(until))] = begins + request.reading_seconds
        self._reading = reading * self.count
        self._token_rate = rate * self.count
        self._at = now
        self.usd += request.usd
        return True


def token_seconds(speeds: Speeds, reading_share: float, tokens_per_second: float) -> float:
    """Returns seconds per token of an answer while one worker gives so many tokens a second to all its answers.

    With itl0 and itl1 the decode seconds per token and per answer in the batch, the batch settles at rate x token
    seconds, and token seconds = (itl0 + itl1 x batch) / (1 - prefill_share x reading_share); solved for the token
    seconds. Infinite where the rate is more than the worker can do.
    """
    left = 1.0 - speeds.prefill_share * reading_share - tokens_per_second * speeds.decode_seconds_per_batch
    return speeds.decode_seconds / left if left > 1e-9 else float("inf")
