"""What every request asks of the own endpoint at least, if it is to be in time: worker-seconds, and when."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from vllm_service.routing.profiles import EndpointProfile
from vllm_service.simulation.draws import Draws
from vllm_service.simulation.scenario import OwnPhysics, Scenario
from vllm_service.simulation.trace import Trace

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Demand:
    """Per request: hosted dollars, seconds to read it, further tokens, and the seconds of both deadlines.

    arrival: or when the first worker can be there, if that is later.
    """

    arrival: Floats
    hosted_usd: Floats
    reading: Floats
    further_tokens: Floats
    first_due: Floats
    end_due: Floats

    @property
    def can_be_in_time(self) -> NDArray[np.bool_]:
        """Whether a worker that reads it at once has done so when its first token is due."""
        in_time: NDArray[np.bool_] = self.arrival + self.reading <= self.first_due + 1e-9
        return in_time


@dataclass(frozen=True)
class Work:
    """One kind of it, worker-seconds per request. reading: from arrival until the first token is due.

    answering: from when the prompt can have been read until the end is due. late: of a request without deadlines.
    """

    reading: Floats
    answering: Floats
    late: Floats

    @property
    def seconds(self) -> Floats:
        """Of a request in time."""
        return self.reading + self.answering


def demand_of(trace: Trace, scenario: Scenario, draws: Draws) -> Demand:
    """Of every request of the trace."""
    profile, target = scenario.own.profile, scenario.target
    reading = trace.prompt_tokens / profile.prefill_tokens_per_second
    first = target.ttft_seconds + trace.prompt_tokens / target.prompt_tokens_per_second - profile.overhead_seconds
    end = first + target.seconds_per_output_token * trace.completion_tokens
    arrival, tokens = trace.arrival_seconds, np.maximum(0.0, trace.completion_tokens - 1.0)
    hosted_usd = _hosted_usd(trace, scenario, draws)
    # No policy starts a worker before the first request. All that can start at once are the first so many draws.
    there = float(draws.cold_starts[: profile.max_workers].min())
    return Demand(np.maximum(arrival, there), hosted_usd, reading, tokens, arrival + first, arrival + end)


def _hosted_usd(trace: Trace, scenario: Scenario, draws: Draws) -> Floats:
    """Per request, of the cheapest provider that does not refuse it, else of the cheapest."""
    usd = np.stack(
        [place.usd(1, 0) * trace.prompt_tokens + place.usd(0, 1) * trace.completion_tokens for place in scenario.hosted]
    )
    open_usd = np.where(draws.rejected.T, np.inf, usd).min(axis=0)
    cheapest: Floats = np.where(np.isfinite(open_usd), open_usd, usd.min(axis=0))
    return cheapest


def kinds_of_work(demand: Demand, own: OwnPhysics) -> list[Work]:
    """Reading alone, and of the others the two that cost most, where own work is cheaper than hosted."""
    reading, *others = [work_by(demand, *weights) for weights in weights_of(own.profile)]
    dear = sorted(
        others, key=lambda work: -float(np.minimum(demand.hosted_usd, own.usd_per_second * work.seconds).sum())
    )
    return [reading, *dear[:2]]


def weights_of(profile: EndpointProfile) -> Iterator[tuple[float, float, float]]:
    """(a, b, g) so that a x (it reads) + b x (tokens per second of all answers) - g x (answers) <= 1, always.

    At any moment of any worker, with any number of answers: a second of it is worth at most one second. Summed over
    its life: a x reading + b x tokens - g x (seconds from first tokens to ends) <= seconds it lives. Leaving out
    requests only makes the rest look faster, so it holds for any of them, within any span of time.
    """
    answers = np.arange(1, int(profile.slots) + 1)
    alone = answers / (profile.decode_seconds + profile.decode_seconds_per_batch * answers)
    beside = alone * (1.0 - profile.prefill_share)
    yield 1.0, 0.0, 0.0
    most_slow = float(min(beside[0], 0.9 * alone[0]))
    for slow, share in product(np.linspace(0.0, most_slow, 5).tolist(), (0.25, 0.5, 0.75, 1.0)):
        # b x tokens - g x seconds is worth something for answers slower than this many tokens per second, each.
        weight = share / float((alone - slow * answers).max())
        reads = 1.0 - max(0.0, weight * float((beside - slow * answers).max()))
        yield reads, weight, weight * slow


def work_by(demand: Demand, reads: float, per_token: float, per_second: float) -> Work:
    """The kind with these weights. Answers begin, at the earliest, when their own prompts have been read."""
    longest = np.maximum(0.0, demand.end_due - demand.arrival - demand.reading)
    answering = np.maximum(0.0, per_token * demand.further_tokens - per_second * longest)
    reading = reads * demand.reading
    late = reading + per_token * demand.further_tokens if per_second == 0.0 else reading
    return Work(reading, answering, late)
