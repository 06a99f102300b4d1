"""Replays a trace through a policy with a virtual clock, and tallies what it cost and how long callers waited."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vllm_service.simulation.draws import Draws
from vllm_service.simulation.endpoint import Endpoint
from vllm_service.simulation.scenario import Scenario
from vllm_service.simulation.trace import Trace

_PROGRESS_EVERY = 2000


class Policy(Protocol):
    """Decides where each request goes, by calling `replay.send_own` or `replay.send_hosted`."""

    def begin(self, replay: Replay) -> Endpoint:
        """Returns the own endpoint as this policy has it scaled."""
        ...

    def arrived(self, request: int, now: float) -> None:
        """Sends the request that has arrived somewhere."""
        ...

    def first_token(self, request: int, now: float) -> None:
        """Learns that the own endpoint's first token of it has come back."""
        ...

    def ended(self, request: int, now: float) -> None:
        """Learns that the own endpoint's answer to it is complete."""
        ...

    def close(self, now: float) -> None:
        """Ends the run: no request will come any more."""
        ...


@dataclass(frozen=True, slots=True)
class HostedAnswer:
    """A hosted answer. Times are on the virtual clock."""

    #: The provider that answered, by its number in the scenario.
    provider: int
    first_token_at: float
    ends_at: float
    usd: float
    #: The providers that answered 429 before it, in order.
    rejections: tuple[int, ...]


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run. Arrays hold a value per request, in the order of arrival; seconds since its arrival."""

    hosted_usd: float
    own_usd: float
    billed_seconds: int
    starts: int
    within: NDArray[np.bool_]
    first_token_seconds: NDArray[np.float64]
    end_seconds: NDArray[np.float64]
    usd_by_request: NDArray[np.float64]
    lifetimes: list[tuple[float, float]]

    @property
    def usd(self) -> float:
        """Dollars of hosted answers and of workers."""
        return self.hosted_usd + self.own_usd

    @property
    def within_target_pct(self) -> float:
        """The percentage of requests whose first token and whose end were both in time."""
        return 100.0 * float(self.within.mean())


class Replay:
    """One run of one policy. `now` only moves forward."""

    def __init__(self, trace: Trace, scenario: Scenario, draws: Draws, policy: Policy) -> None:
        self.trace = trace
        self.scenario = scenario
        self.draws = draws
        self.policy = policy
        # Lists, because single elements of numpy arrays are slow to read.
        self.prompts: list[float] = trace.prompt_tokens.tolist()
        self.completions: list[float] = trace.completion_tokens.tolist()
        self.arrivals: list[float] = trace.arrival_seconds.tolist()
        self.now = 0.0
        #: 0 until it has come, as in ends_at.
        self.first_token_at = [0.0] * len(trace)
        self.ends_at = [0.0] * len(trace)
        self.hosted_usd = [0.0] * len(trace)
        #: A heap of (time, number, call, arguments); the number keeps timers of one time in their order.
        self._timers: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._timer_number = 0
        self._rejected = {(int(r), int(p)) for r, p in np.argwhere(draws.rejected)}
        self.endpoint = policy.begin(self)

    def at(self, time: float, call: Callable[..., None], *arguments: Any) -> None:
        """Calls this when the clock reaches `time`."""
        self._timer_number += 1
        heapq.heappush(self._timers, (time, self._timer_number, call, arguments))

    def send_own(self, request: int) -> None:
        """Sends the request to the own endpoint's queue, now."""
        self.endpoint.submit(request, self.prompts[request], self.completions[request], self.now)

    def try_hosted(self, request: int, order: tuple[int, ...]) -> HostedAnswer:
        """Returns the answer if these providers are tried in this order from now on, then the first once more.

        A provider's 429 is drawn once per request, so the second attempt at the first provider is answered.
        """
        begins = self.now
        rejections: tuple[int, ...] = ()
        provider = order[0]
        for provider in order:
            if (request, provider) not in self._rejected:
                break
            rejections = (*rejections, provider)
            begins += self.scenario.rejection_seconds
        else:
            provider = order[0]
        physics = self.scenario.hosted[provider]
        first_token_at = begins + physics.ttft_seconds
        ends_at = first_token_at + self.completions[request] / physics.tokens_per_second
        usd = physics.usd(self.prompts[request], self.completions[request])
        return HostedAnswer(provider, first_token_at, ends_at, usd, rejections)

    def book_hosted(self, request: int, answer: HostedAnswer) -> None:
        """Books what the caller got, and what it cost."""
        self.first_token_at[request] = answer.first_token_at
        self.ends_at[request] = answer.ends_at
        self.hosted_usd[request] += answer.usd

    def run(self, progress: Callable[[int], None] = lambda done: None) -> Outcome:
        """Runs to the end of the last answer and the last worker's idle timeout.

        Of events at one time, the endpoint's come first, then timers, then arrivals: an arrival sees what is over.
        """
        endpoint = self.endpoint
        policy = self.policy
        timers = self._timers
        arrivals = self.arrivals
        count = len(arrivals)
        arrived = 0
        closed = False
        never = float("inf")
        while True:
            arrival = arrivals[arrived] if arrived < count else never
            timer = timers[0][0] if timers else never
            event = endpoint.next_event
            if event <= arrival and event <= timer:
                if event == never:
                    if closed:
                        break
                    closed = True
                    policy.close(self.now)
                    continue
                self.now = event
                self._step(endpoint, policy)
            elif timer <= arrival:
                self.now, _, call, arguments = heapq.heappop(timers)
                call(*arguments)
            else:
                self.now = arrival
                policy.arrived(arrived, arrival)
                arrived += 1
                if arrived % _PROGRESS_EVERY == 0:
                    progress(arrived)
            if arrived == count and not closed and not endpoint.busy():
                closed = True
                policy.close(self.now)
        progress(count)
        return self._outcome()

    def _step(self, endpoint: Endpoint, policy: Policy) -> None:
        overhead = self.scenario.own.profile.overhead_seconds
        for request, is_first_token in endpoint.step():
            if is_first_token:
                # A policy may have booked a hosted answer meanwhile: the caller has had that one.
                if not self.first_token_at[request]:
                    self.first_token_at[request] = self.now + overhead
                policy.first_token(request, self.now)
            else:
                if not self.ends_at[request]:
                    self.ends_at[request] = self.now + overhead
                policy.ended(request, self.now)

    def _outcome(self) -> Outcome:
        arrival = self.trace.arrival_seconds
        first_token_seconds = np.array(self.first_token_at) - arrival
        end_seconds = np.array(self.ends_at) - arrival
        target = self.scenario.target
        first_target = target.ttft_seconds + self.trace.prompt_tokens / target.prompt_tokens_per_second
        end_target = first_target + target.seconds_per_output_token * self.trace.completion_tokens
        hosted = np.array(self.hosted_usd)
        return Outcome(
            hosted_usd=float(hosted.sum()),
            own_usd=self.endpoint.billed_seconds * self.scenario.own.usd_per_second,
            billed_seconds=self.endpoint.billed_seconds,
            starts=self.endpoint.starts,
            within=(first_token_seconds <= first_target) & (end_seconds <= end_target),
            first_token_seconds=first_token_seconds,
            end_seconds=end_seconds,
            usd_by_request=hosted,
            lifetimes=self.endpoint.lifetimes,
        )
