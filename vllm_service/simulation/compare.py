"""Compares all policies on one trace and scenario, with the same random draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vllm_service.errors import ConfigurationError
from vllm_service.simulation.bound.clairvoyant import FREE_SHARE, clairvoyant
from vllm_service.simulation.draws import Draws
from vllm_service.simulation.policies.baselines import BASELINES
from vllm_service.simulation.policies.cost import CostPolicy
from vllm_service.simulation.replay import Outcome, Policy, Replay
from vllm_service.simulation.scenario import Scenario
from vllm_service.simulation.trace import Trace

POLICIES: dict[str, Callable[[], Policy]] = {"cost": CostPolicy, **BASELINES}
CLAIRVOYANT = "clairvoyant"
NAMES = (*POLICIES, CLAIRVOYANT)

#: Called with a policy's name and how many of its requests are done.
Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class Result:
    """One policy's figures."""

    policy: str
    usd: float
    usd_per_million_tokens: float
    within_target_pct: float
    worker_hours: float
    starts: int
    #: What happened to each request; None for the bound, which is no schedule.
    outcome: Outcome | None = None

    def to_json(self) -> dict[str, object]:
        """Returns what `simulate --json` prints of it."""
        return {
            "policy": self.policy,
            "usd": round(self.usd, 6),
            "usd_per_million_tokens": round(self.usd_per_million_tokens, 6),
            "within_target_pct": round(self.within_target_pct, 4),
            "worker_hours": round(self.worker_hours, 4),
            "starts": self.starts,
        }


def compare(
    trace: Trace,
    scenario: Scenario,
    seed: int,
    policies: Sequence[str] = NAMES,
    progress: Progress = lambda policy, done: None,
) -> list[Result]:
    """Returns a result per policy, in the order of `policies`. Raises ConfigurationError for an unknown name."""
    unknown = [name for name in policies if name not in NAMES]
    if unknown:
        raise ConfigurationError(f"No such policy: {', '.join(unknown)}. Policies: {', '.join(NAMES)}.")
    results = []
    for name in policies:
        draws = Draws(scenario, len(trace), seed)
        if name == CLAIRVOYANT:
            results.append(_bound(trace, scenario, draws))
            progress(name, len(trace))
        else:
            report = _reporter(progress, name)
            outcome = Replay(trace, scenario, draws, POLICIES[name]()).run(report)
            results.append(_result(name, outcome, trace))
    return results


def _reporter(progress: Progress, name: str) -> Callable[[int], None]:
    return lambda done: progress(name, done)


def _result(name: str, outcome: Outcome, trace: Trace) -> Result:
    per_million = outcome.usd / trace.tokens * 1e6
    hours = outcome.billed_seconds / 3600
    return Result(name, outcome.usd, per_million, outcome.within_target_pct, hours, outcome.starts, outcome)


def _bound(trace: Trace, scenario: Scenario, draws: Draws) -> Result:
    bound = clairvoyant(trace, scenario, draws)
    within = 100.0 * (1.0 - FREE_SHARE)
    return Result(
        CLAIRVOYANT, bound.usd, bound.usd / trace.tokens * 1e6, within, bound.worker_seconds / 3600, bound.starts
    )
