"""The same traffic in the simulator, with the physics that were measured."""

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

ENVELOPE_TOKENS = 60  # what the JSON around a prompt adds to the gateway's estimate of its length, four bytes a token
# The keeper looks at /health when 2 s have passed, in rounds of 1 s: a change is 0 to 3 s old when it is seen.
STATE_LAG_SECONDS = 1.5


class AsPlayed(CostPolicy):
    """Tells the router what the gateway tells it of these calls: the length of the JSON, and the caller's limit."""

    looks_always = True

    def settings(self, scenario: Scenario) -> RouterSettings:
        """providers.yaml cannot say what a running prefill takes from answers: the router has its own guess."""
        settings = super().settings(scenario)
        share = EndpointProfile().prefill_share
        profiles = {name: replace(profile, prefill_share=share) for name, profile in settings.profiles.items()}
        return replace(settings, profiles=profiles)

    def facts_of(self, request: int) -> RequestFacts:
        """Of the request with this number."""
        prompt, limit = int(self.replay.prompts[request]), int(self.replay.completions[request])
        return RequestFacts(MODEL, "chat.completions", prompt + ENVELOPE_TOKENS, stream=True, max_tokens=limit)


def scenario_of(profile: EndpointProfile, hosted: tuple[Hosted, ...] = HOSTED) -> Scenario:
    """Cold starts as they were measured, without a spread: there are too few of them to know one."""
    own = OwnPhysics(float(USD_PER_SECOND), profile, cold_start_sigma=0.0, state_lag_seconds=STATE_LAG_SECONDS)
    places = tuple(
        HostedPhysics(
            place.name, float(place.input_usd), float(place.output_usd), place.ttft_seconds, place.tokens_per_second
        )
        for place in hosted
    )
    return Scenario("compressed", "2026-11-21", own, places, LatencyTarget(), REFUSED_SHARE, REFUSED_SECONDS)


def simulated(trace: Trace, scenario: Scenario, seed: int = 0) -> Outcome:
    """One run of COST."""
    return Replay(trace, scenario, Draws(scenario, len(trace), seed), AsPlayed()).run()
