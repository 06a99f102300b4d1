"""Advises what to rent for a trace: tries GPUs, idle timeouts and provider mixes in the simulator."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vllm_service.simulation.compare import Result, compare
from vllm_service.simulation.scenario import Scenario
from vllm_service.simulation.trace import Trace

#: The floor: choices with less of the requests in time are ranked last.
_LEAST_WITHIN_PCT = 99.0


@dataclass(frozen=True)
class SimulatedChoice:
    """A choice, and what the router would have paid with it."""

    scenario: Scenario
    policy: str
    result: Result

    def to_json(self) -> dict[str, object]:
        """Returns the result's fields and what was chosen."""
        return {
            "scenario": self.scenario.name,
            "policy": self.policy,
            "idle_timeout_seconds": self.scenario.own.profile.idle_timeout_seconds,
            "hosted": [provider.name for provider in self.scenario.hosted],
            **{name: value for name, value in self.result.to_json().items() if name != "policy"},
        }


def middle(trace: Trace, most: int) -> Trace:
    """Returns at most so many requests, from the middle of the trace: enough to compare choices by."""
    if len(trace) <= most:
        return trace
    begin = (len(trace) - most) // 2
    part = slice(begin, begin + most)
    arrival = trace.arrival_seconds[part]
    return Trace(arrival - arrival[0], trace.prompt_tokens[part], trace.completion_tokens[part])


def choices(scenarios: Sequence[Scenario], idle_seconds: Sequence[float]) -> list[tuple[Scenario, str]]:
    """Returns the choices: each GPU with each idle timeout and all hosted providers, or only the first; and no GPU."""
    found: list[tuple[Scenario, str]] = []
    for scenario in scenarios:
        found.append((scenario, "all_hosted"))
        for idle in idle_seconds:
            profile = replace(scenario.own.profile, idle_timeout_seconds=idle)
            with_idle = replace(scenario, own=replace(scenario.own, profile=profile))
            for count in sorted({1, len(scenario.hosted)}):
                found.append((replace(with_idle, hosted=scenario.hosted[:count]), "cost"))
    return found


def cost_of(
    trace: Trace, choice: tuple[Scenario, str], seed: int, progress: Callable[[str, int], None]
) -> SimulatedChoice:
    """Simulates one choice."""
    scenario, policy = choice
    (result,) = compare(trace, scenario, seed, [policy], lambda _, done: progress(_label(scenario, policy), done))
    return SimulatedChoice(scenario, policy, result)


def as_json(found: Sequence[SimulatedChoice]) -> str:
    """Returns one JSON document, the best choice first."""
    return json.dumps({"choices": [choice.to_json() for choice in ranked(found)]}, indent=2) + "\n"


def as_text(found: Sequence[SimulatedChoice]) -> str:
    """Returns a line per choice, the best first."""
    lines = [
        f"{_label(choice.scenario, choice.policy):60} {choice.result.usd:10.4f} USD "
        f"{choice.result.usd_per_million_tokens:8.4f} per M tokens {choice.result.within_target_pct:7.2f} % in time"
        for choice in ranked(found)
    ]
    return "\n".join(["The best first (simulated; parameters are estimates):", *lines]) + "\n"


def ranked(found: Sequence[SimulatedChoice]) -> list[SimulatedChoice]:
    """Returns the choices that keep 99 % within target first, then by dollars."""
    return sorted(found, key=lambda choice: (choice.result.within_target_pct < _LEAST_WITHIN_PCT, choice.result.usd))


def _label(scenario: Scenario, policy: str) -> str:
    hosted = "+".join(provider.name for provider in scenario.hosted)
    if policy == "all_hosted":
        return f"{scenario.name}: no own workers, {hosted}"
    return f"{scenario.name}: idle {scenario.own.profile.idle_timeout_seconds:g} s, {hosted}"
