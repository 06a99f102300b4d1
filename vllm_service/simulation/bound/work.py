"""The work that a request in time takes of the own endpoint at least: worker-seconds, and between which times."""

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
    """The demand of a trace, a value per request; times are seconds."""

    #: When it arrives, or when the first worker can be there if that is later.
    arrival: Floats
    hosted_usd: Floats
    #: How long one worker reads its prompt.
    reading: Floats
    #: Output tokens after the first one, which comes with the end of the reading.
    further_tokens: Floats
    #: When its first token is due at the worker.
    first_due: Floats
    #: When the end of its answer is due at the worker.
    end_due: Floats

    @property
    def can_be_in_time(self) -> NDArray[np.bool_]:
        """True where a worker that reads the prompt at once has done so when its first token is due."""
        in_time: NDArray[np.bool_] = self.arrival + self.reading <= self.first_due + 1e-9
        return in_time


@dataclass(frozen=True)
class Work:
    """Worker-seconds per request, counted by one choice of weights (see weights_of)."""

    #: To be done from the arrival until the first token is due.
    reading: Floats
    #: To be done from when the prompt can have been read until the end is due.
    answering: Floats
    #: Of a request that is late, so without deadlines.
    late: Floats

    @property
    def seconds(self) -> Floats:
        """All of a request that is in time."""
        return self.reading + self.answering


def demand_of(trace: Trace, scenario: Scenario, draws: Draws) -> Demand:
    """Returns the demand of a trace."""
    profile, target = scenario.own.profile, scenario.target
    reading = trace.prompt_tokens / profile.prefill_tokens_per_second
    first = target.ttft_seconds + trace.prompt_tokens / target.prompt_tokens_per_second - profile.overhead_seconds
    end = first + target.seconds_per_output_token * trace.completion_tokens
    arrival, tokens = trace.arrival_seconds, np.maximum(0.0, trace.completion_tokens - 1.0)
    hosted_usd = _hosted_usd(trace, scenario, draws)
    # No policy starts a worker before the first request. All that can start at once are the first so many draws, so
    # no worker is there before the fastest of these is over.
    there = float(draws.cold_starts[: profile.max_workers].min())
    return Demand(np.maximum(arrival, there), hosted_usd, reading, tokens, arrival + first, arrival + end)


def _hosted_usd(trace: Trace, scenario: Scenario, draws: Draws) -> Floats:
    """Returns each request's dollars at the cheapest provider that does not refuse it, else at the cheapest."""
    usd = np.stack(
        [place.usd(1, 0) * trace.prompt_tokens + place.usd(0, 1) * trace.completion_tokens for place in scenario.hosted]
    )
    open_usd = np.where(draws.rejected.T, np.inf, usd).min(axis=0)
    cheapest: Floats = np.where(np.isfinite(open_usd), open_usd, usd.min(axis=0))
    return cheapest


def kinds_of_work(demand: Demand, own: OwnPhysics) -> list[Work]:
    """Returns reading alone, and the two other kinds by which own work costs most where it is cheaper than hosted."""
    reading, *others = [work_by(demand, *weights) for weights in weights_of(own.profile)]
    dear = sorted(
        others, key=lambda work: -float(np.minimum(demand.hosted_usd, own.usd_per_second * work.seconds).sum())
    )
    return [reading, *dear[:2]]


def weights_of(profile: EndpointProfile) -> Iterator[tuple[float, float, float]]:
    """Yields (a, b, g) so that a x (it reads) + b x (tokens per second of all answers) - g x (answers) <= 1.

    This holds at any time for any worker with any number of answers, so a second of it is worth at most one second.
    Summed over its life: a x reading + b x tokens - g x (seconds from first tokens to ends) <= seconds it lives.
    Leaving out requests only makes the rest look faster, so it holds for any of them, within any span of time.
    """
    answers = np.arange(1, int(profile.slots) + 1)
    # Tokens per second of 1, 2, ... answers: without a prompt that is being read, and beside one.
    alone = answers / (profile.decode_seconds + profile.decode_seconds_per_batch * answers)
    beside = alone * (1.0 - profile.prefill_share)
    yield 1.0, 0.0, 0.0
    most_slow = float(min(beside[0], 0.9 * alone[0]))
    # `slow` is the pace per answer at which the answers' term is zero; it has to stay below that of a single answer, or
    # the largest of `alone - slow x answers`, by which the weight is divided, would not be above zero.
    for slow, share in product(np.linspace(0.0, most_slow, 5).tolist(), (0.25, 0.5, 0.75, 1.0)):
        # b = weight and g = weight x slow: b x tokens - g x answers is at most `share` when nothing is read, and what
        # it can be beside a prompt is taken off `reads`.
        weight = share / float((alone - slow * answers).max())
        reads = 1.0 - max(0.0, weight * float((beside - slow * answers).max()))
        yield reads, weight, weight * slow


def work_by(demand: Demand, reads: float, per_token: float, per_second: float) -> Work:
    """Returns the work by these weights. Answers begin, at the earliest, when their own prompts have been read."""
    longest = np.maximum(0.0, demand.end_due - demand.arrival - demand.reading)
    answering = np.maximum(0.0, per_token * demand.further_tokens - per_second * longest)
    reading = reads * demand.reading
    # With g above zero a late answer may take so long that its tokens count for nothing: only its reading is left.
    late = reading + per_token * demand.further_tokens if per_second == 0.0 else reading
    return Work(reading, answering, late)
