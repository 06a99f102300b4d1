"""What k warm workers would have taken of the traffic there was: the real arrivals, offered to workers on paper.

This is where bursts, long prompts and tight targets count: no formula for the share that workers really accept.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from vllm_service.domain.money import PICOUSD_PER_USD
from vllm_service.routing.profiles import LatencyTarget

MOST_WAITING = 100_000  # requests between two looks; more are forgotten
_MEMORY_SECONDS = 10.0


class Demand(NamedTuple):
    """One request as the hot path notes it down; what follows from it is worked out later, off the hot path."""

    at_seconds: float
    hosted_picousd: int
    prompt_tokens: int
    completion_tokens: float
    target: LatencyTarget


@dataclass(slots=True)
class Heard:
    """What is noted down of an endpoint until its rules next look: requests that it could serve, and what it saved.

    saved_usd: what requests that its workers have taken would have cost hosted, since the beginning.
    """

    waiting: deque[Demand] = field(default_factory=lambda: deque(maxlen=MOST_WAITING))
    saved_usd: float = 0.0


class Offered(NamedTuple):
    """One request. reading_seconds: of its prompt by one worker. allowed_seconds: to its first token, by the margin.

    pace_seconds: promised per output token. usd: what the cheapest hosted place would take for it.
    """

    at_seconds: float
    usd: float
    reading_seconds: float
    completion_tokens: float
    allowed_seconds: float
    pace_seconds: float


@dataclass(frozen=True, slots=True)
class Speeds:
    """Of one worker, as measured: see profiles.EndpointProfile; margin: capacity.Endpoint's."""

    overhead_seconds: float
    seconds_per_prompt_token: float
    decode_seconds: float
    decode_seconds_per_batch: float
    prefill_share: float
    slots: int
    margin: float = 1.0

    def offered(self, demand: Demand) -> Offered:
        """What such a request means for a worker of these speeds."""
        at_seconds, picousd, prompt_tokens, completion_tokens, target = demand
        return Offered(
            at_seconds,
            picousd / PICOUSD_PER_USD,
            prompt_tokens * self.seconds_per_prompt_token,
            completion_tokens,
            target.first_token_seconds(prompt_tokens) * self.margin,
            target.seconds_per_output_token * self.margin,
        )


class CounterfactualWorkers:
    """`count` workers that were always warm. usd: what they would have saved since it was last set to zero."""

    __slots__ = ("_at", "_reading", "_reads_until", "_token_rate", "count", "usd")

    def __init__(self, count: int) -> None:
        self.count = count
        self.usd = 0.0
        self._reads_until = [0.0] * count
        self._reading = 0.0  # workers' share of time that goes to prompts, of late
        self._token_rate = 0.0  # output tokens per second, of late
        self._at = 0.0

    def offer(self, request: Offered, speeds: Speeds) -> None:
        """Takes the request, if its first token and its end would be in time."""
        now, until = request.at_seconds, self._reads_until
        if not until:
            return
        begins = max(now, min(until))
        wait = begins - now + request.reading_seconds + speeds.overhead_seconds
        if wait > request.allowed_seconds:
            return
        keep = max(0.0, 1.0 - (now - self._at) / _MEMORY_SECONDS)
        reading = (self._reading * keep + request.reading_seconds / _MEMORY_SECONDS) / self.count
        rate = (self._token_rate * keep + request.completion_tokens / _MEMORY_SECONDS) / self.count
        token = token_seconds(speeds, min(1.0, reading), rate)
        late = wait + 2.0 * request.completion_tokens * (token - request.pace_seconds) > request.allowed_seconds
        if late or rate * token > speeds.slots:
            return
        until[until.index(min(until))] = begins + request.reading_seconds
        self._reading, self._token_rate, self._at = reading * self.count, rate * self.count, now
        self.usd += request.usd


def token_seconds(speeds: Speeds, reading_share: float, tokens_per_second: float) -> float:
    """Seconds per token of an answer, where one worker gives so many tokens a second to all its answers.

    The batch settles at rate x token seconds, and token seconds are (itl0 + itl1 x batch) / speed left by prompts;
    solved for the token's seconds. Infinite where the rate is more than the worker can do.
    """
    left = 1.0 - speeds.prefill_share * reading_share - tokens_per_second * speeds.decode_seconds_per_batch
    return speeds.decode_seconds / left if left > 1e-9 else float("inf")
