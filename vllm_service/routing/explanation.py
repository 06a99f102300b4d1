"""Explains a plan to people: what speaks against each offer that is not tried first, and why others are left out."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vllm_service.domain.plan import Plan, Step
from vllm_service.domain.requests import RequestFacts
from vllm_service.routing.capacity import Endpoint
from vllm_service.routing.profiles import LatencyTarget
from vllm_service.routing.router import CostRouter
from vllm_service.routing.strategies import Candidate


@dataclass(frozen=True, slots=True)
class OfferNote:
    """An offer of the model, and what decided about it."""

    provider: str
    model: str
    #: The expected cost of the request; None where it is unknown.
    cost_picousd: int | None
    note: str


@dataclass(frozen=True, slots=True)
class PlanExplanation:
    """A plan with a note on each of its offers, and on those that it leaves out."""

    plan: Plan
    #: In the plan's order.
    steps: tuple[OfferNote, ...]
    left_out: tuple[OfferNote, ...]


@dataclass(frozen=True, slots=True)
class _Question:
    """One request at one time, as the router judges it."""

    router: CostRouter
    facts: RequestFacts
    target: LatencyTarget
    completion_tokens: float
    now: float


def explain(router: CostRouter, facts: RequestFacts, now_seconds: float) -> PlanExplanation:
    """Returns the plan for such a request and why it is like that. Raises what `router.plan` raises."""
    plan = router.plan(facts, now_seconds)
    plan.ended(is_answered=False)  # nothing is sent
    question = _Question(router, facts, router.target_of(facts), router.expected_tokens(facts), now_seconds)
    by_offer = {(candidate.name, candidate.model): candidate for candidate in router.candidates_of(facts)}
    steps = []
    for number, step in enumerate(plan.steps):
        candidate = by_offer.pop((step.provider, step.model))
        notes = [*_standing(step, number, plan), *_state(candidate, question)]
        steps.append(OfferNote(step.provider, step.model, step.cost_picousd, "; ".join(notes)))
    left_out = tuple(
        OfferNote(name, model, None, "; ".join(_absence(candidate, question)))
        for (name, model), candidate in by_offer.items()
    )
    return PlanExplanation(plan, tuple(steps), left_out)


def _standing(step: Step, number: int, plan: Plan) -> list[str]:
    """Returns which cheaper offers come after this one, or that dearer ones come before it."""
    cost = step.cost_picousd
    if cost is None:
        return []
    cheaper = [
        later.provider
        for later in plan.steps[number + 1 :]
        if later.cost_picousd is not None and later.cost_picousd < cost
    ]
    if cheaper:
        return [f"dearer than {', '.join(dict.fromkeys(cheaper))}, which comes later for the reasons there"]
    if any(earlier.cost_picousd is not None and earlier.cost_picousd > cost for earlier in plan.steps[:number]):
        return ["cheaper, but not first"]
    return []


def _state(candidate: Candidate, question: _Question) -> list[str]:
    """Returns what the router holds of the offer at this time."""
    facts, now = question.facts, question.now
    notes = []
    seconds = candidate.expected_seconds(facts, question.completion_tokens, now)
    if math.isfinite(seconds):
        notes.append(f"about {seconds:.1f} s to the end of the answer")
    if candidate.endpoint is not None:
        notes.append(_of_workers(candidate, candidate.endpoint, question))
    if seconds_late := candidate.seconds_late(facts, now):
        notes.append(f"it asked to wait {seconds_late:.0f} s more (Retry-After)")
    if not question.router.may_try(candidate, facts, now):
        notes.append("its circuit breaker is open after failures")
    if cached := candidate.cached_tokens(facts, now):
        notes.append(f"about {cached} prompt tokens are expected in its prompt cache")
    if not candidate.is_priced:
        notes.append("its price is unknown")
    return notes


def _of_workers(candidate: Candidate, endpoint: Endpoint, question: _Question) -> str:
    facts, target = question.facts, question.target
    allowed = target.first_token_seconds(facts.prompt_tokens)
    if endpoint.serving <= 0:
        return (
            f"no worker is warm: a start takes about {endpoint.cold_start.value:.0f} s, and the latency target is "
            f"{allowed:.1f} s to the first token"
        )
    cached = candidate.cached_tokens(facts, question.now)
    if endpoint.accepts(target, facts.prompt_tokens, cached, question.completion_tokens, question.now):
        return "a warm worker has room within the latency target, and its seconds are paid already"
    wait = endpoint.first_token_seconds(facts.prompt_tokens - cached, question.now)
    if math.isinf(wait):
        return f"all slots of its {endpoint.serving} warm workers are taken"
    return (
        f"its {endpoint.serving} warm workers would miss the latency target: {wait:.1f} s to the first token where "
        f"{allowed:.1f} s are allowed, or too slow from there"
    )


def _absence(candidate: Candidate, question: _Question) -> list[str]:
    """Returns why an offer is not in the plan: its state, or else a rule of the request or the strategy."""
    reasons = []
    if not candidate.is_priced:
        reasons.append("its price is unknown, and COST needs one")
    if not question.router.may_try(candidate, question.facts, question.now):
        reasons.append("its circuit breaker is open after failures")
    if question.router.is_switched_off(candidate.name):
        reasons.append("RunPod lets it have no worker (its greatest number is 0)")
    if question.facts.provider is not None and question.facts.provider != candidate.name:
        reasons.append(f"the request names {question.facts.provider}")
    return reasons or ["a tag, a cap, the strategy or the length of the plan leaves it out"]
