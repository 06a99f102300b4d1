"""Small scenarios and traces for tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vllm_service.routing.profiles import EndpointProfile, LatencyTarget
from vllm_service.simulation.scenario import HostedPhysics, OwnPhysics, Scenario
from vllm_service.simulation.trace import Trace

PROFILE = EndpointProfile(
    prefill_tokens_per_second=1000.0,
    decode_seconds=0.01,
    decode_seconds_per_batch=0.01,
    slots=4,
    cold_start_seconds=20.0,
)


def scenario(
    usd_per_second: float = 0.001, rejection_rate: float = 0.0, queue_delay_seconds: float = 4.0, **profile: float
) -> Scenario:
    """Round numbers; cold starts take exactly 20 seconds."""
    changed = replace(PROFILE, **profile)  # type: ignore[arg-type]  # numbers by name
    return Scenario(
        name="round",
        dated="2026-11",
        own=OwnPhysics(usd_per_second, changed, cold_start_sigma=0.0, queue_delay_seconds=queue_delay_seconds),
        hosted=(HostedPhysics("a", 1.0, 2.0, 0.5, 100.0), HostedPhysics("b", 3.0, 4.0, 0.25, 50.0)),
        target=LatencyTarget(),
        rejection_rate=rejection_rate,
    )


def trace(rows: Sequence[tuple[float, float, float]]) -> Trace:
    """(arrival, prompt tokens, completion tokens) in order of arrival."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 3)
    return Trace(table[:, 0], table[:, 1], table[:, 2])


def poisson(rate: float, count: int, seed: int = 0, prompt: float = 500.0, answer: float = 30.0) -> Trace:
    """Memoryless arrivals with spread-out lengths."""
    random = np.random.default_rng(seed)
    arrivals = np.cumsum(random.exponential(1 / rate, count))
    prompts = np.ceil(random.lognormal(np.log(prompt), 0.6, count))
    answers = np.ceil(random.lognormal(np.log(answer), 0.6, count))
    return Trace(arrivals - arrivals[0], prompts, answers)
