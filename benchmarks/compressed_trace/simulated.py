"""The simulation of the same traffic, with the measured speeds."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.compressed_trace.stage import HOSTED, REFUSED_SECONDS, REFUSED_SHARE, USD_PER_SECOND, Hosted
from vllm_service.domain.requests import RequestFacts
from vllm_service.routing.profiles import EndpointProfile, LatencyTarget, RouterSettings
from vllm_service.simulation.draws import Draws
from vllm_service.simulation.policies.cost import MODEL, CostPolicy
from vllm_service.simulation.replay import Outcome, Replay
from vllm_service.simulation.scenario import HostedPhysics, OwnPhysics, Scenario
from vllm_service.simulation.trace import Trace

#: What the JSON around a prompt adds to the gateway's estimate of its length, at four bytes a token.
ENVELOPE_TOKENS = 60
#: The gateway reads /health after 2 s, in rounds of 1 s: a change is 0 to 3 s old when it is seen.
STATE_LAG_SECONDS = 1.5


class AsPlayed(CostPolicy):
    """COST with the facts that the gateway has about these calls: the length of the JSON, and the caller's limit."""

    looks_always = True

    def settings(self, scenario: Scenario) -> RouterSettings:
        """Returns the settings with the router's default for `prefill_share`."""
        settings = super().settings(scenario)
        # providers.yaml has no field for it, so the gateway's router uses its default too.
        share = EndpointProfile().prefill_share
        profiles = {name: replace(profile, prefill_share=share) for name, profile in settings.profiles.items()}
        return replace(settings, profiles=profiles)

    def facts_of(self, request: int) -> RequestFacts:
        """Returns the facts of the request with this number."""
        prompt = int(self.replay.prompts[request])
        limit = int(self.replay.completions[request])
        return RequestFacts(MODEL, "chat.completions", prompt + ENVELOPE_TOKENS, stream=True, max_tokens=limit)


def scenario_of(profile: EndpointProfile, hosted: tuple[Hosted, ...] = HOSTED) -> Scenario:
    """Returns the scenario of the stage."""
    # No spread of the cold starts: too few are measured for an estimate of it.
    own = OwnPhysics(float(USD_PER_SECOND), profile, cold_start_sigma=0.0, state_lag_seconds=STATE_LAG_SECONDS)
    providers = tuple(
        HostedPhysics(one.name, float(one.input_usd), float(one.output_usd), one.ttft_seconds, one.tokens_per_second)
        for one in hosted
    )
    return Scenario("compressed", "2026-11-21", own, providers, LatencyTarget(), REFUSED_SHARE, REFUSED_SECONDS)


def simulated(trace: Trace, scenario: Scenario, seed: int = 0) -> Outcome:
    """Simulates one run of COST."""
    return Replay(trace, scenario, Draws(scenario, len(trace), seed), AsPlayed()).run()
