"""Orders of places, one signature, one dict: the gateway's users name them per model, key or request.

A strategy gets what is known of one request and returns the places in the order in which they are tried, and why.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec

from vllm_service.domain.requests import RequestFacts
from vllm_service.routing.candidates import Candidate
from vllm_service.routing.profiles import LatencyTarget

Ordered = tuple[list[Candidate], str]


class Turns:
    """What a strategy remembers between the requests of one model: whose turn it is, and its own dice."""

    __slots__ = ("count", "dice", "own_debt")

    def __init__(self, seed: int = 0) -> None:
        self.count = 0
        self.own_debt = 0.0
        self.dice = random.Random(seed)  # noqa: S311  # it shares out load, it guards nothing


class Choice(msgspec.Struct):
    """One request, and the places that rules have left. completion_tokens: expected.

    costs: marginal pico-dollars by a candidate's position; None where the price is unknown.
    """

    facts: RequestFacts
    candidates: list[Candidate]
    target: LatencyTarget
    completion_tokens: float
    costs: list[int | None]
    now_seconds: float
    turns: Turns
    own_share: float


Strategy = Callable[[Choice], Ordered]


def by_cost(choice: Choice) -> Ordered:
    """An own worker that is warm and predicted to be in time, else the cheapest hosted place; unknown prices last."""
    prompt, now, costs = choice.facts.prompt_tokens, choice.now_seconds, choice.costs
    ready: list[Candidate] = []
    busy: list[Candidate] = []
    hosted: list[tuple[int, int, Candidate]] = []
    for candidate in choice.candidates:
        cost = costs[candidate.position]
        if cost is None:
            continue
        if candidate.endpoint is None:
            late = candidate.late_until > now
            hosted.append((cost + _LAST if late else cost, candidate.position, candidate))
        elif candidate.endpoint.accepts(
            choice.target, prompt, candidate.cached_tokens(choice.facts, now), choice.completion_tokens, now
        ):
            ready.append(candidate)
        else:
            busy.append(candidate)
    hosted.sort()
    cheapest = [entry[2] for entry in hosted]
    if len(ready) > 1:
        ready.sort(key=lambda place: costs[place.position] or 0)
    if ready:
        return ready + cheapest + busy, f"a warm own worker has room ({ready[0].provider.name})"
    if cheapest:
        return cheapest + busy, _OWN_BUSY if busy and _serving(busy[0]) else _OWN_OFF
    return busy, "only the own endpoint serves it at a known price"


_LAST = 1 << 62
_OWN_BUSY, _OWN_OFF = "cheapest hosted; own workers are busy", "cheapest hosted; own workers are off"


def _serving(candidate: Candidate) -> bool:
    return candidate.endpoint is not None and candidate.endpoint.serving > 0


def by_latency(choice: Choice) -> Ordered:
    """The soonest end of the answer, as places have been lately. A cold endpoint is last: no probe wakes a worker."""
    timed = sorted(
        (place.expected_seconds(choice.facts, choice.completion_tokens, choice.now_seconds), place.position)
        for place in choice.candidates
    )
    by_position = {place.position: place for place in choice.candidates}
    return [by_position[position] for _, position in timed], f"the fastest of late: {timed[0][0]:.2f} s expected"


def by_quality(choice: Choice) -> Ordered:
    """As configured: whoever writes models.yaml puts the best first."""
    return sorted(choice.candidates, key=lambda place: place.position), "quality: the configured order"


def balanced(choice: Choice) -> Ordered:
    """`own_share` of requests to the own endpoint (80 % unless configured), evenly spread, the rest to hosted ones."""
    own = [place for place in choice.candidates if place.endpoint is not None]
    hosted = [place for place in choice.candidates if place.endpoint is None]
    choice.turns.own_debt += choice.own_share
    own_turn = choice.turns.own_debt >= 1.0 - 1e-9
    if own_turn:
        choice.turns.own_debt -= 1.0
    first, then = (own, hosted) if own_turn else (hosted, own)
    return first + then, f"balanced: {choice.own_share:.0%} to own endpoints"


def round_robin(choice: Choice) -> Ordered:
    """Each place in turn."""
    turn = choice.turns.count % len(choice.candidates)
    choice.turns.count += 1
    return choice.candidates[turn:] + choice.candidates[:turn], "round robin"


def least_loaded(choice: Choice) -> Ordered:
    """The fewest requests in flight."""
    order = sorted(choice.candidates, key=lambda place: (place.in_flight, place.position))
    return order, f"least loaded: {order[0].in_flight} in flight"


def weighted(choice: Choice) -> Ordered:
    """Drawn by the offers' weights, without putting back; weight 0 comes last, as configured."""
    dice = choice.turns.dice
    order = sorted(
        choice.candidates,
        key=lambda place: dice.random() ** (1.0 / place.weight) if place.weight > 0 else -place.position,
        reverse=True,
    )
    return order, "drawn by weight"


def pinned(choice: Choice) -> Ordered:
    """One place only: the one asked for, else the first that is configured. Nothing is tried after it."""
    return choice.candidates[:1], f"pinned to {choice.candidates[0].provider.name}"


DEFAULT = "COST"
STRATEGIES: dict[str, Strategy] = {
    "COST": by_cost,
    "LATENCY": by_latency,
    "QUALITY": by_quality,
    "BALANCED": balanced,
    "ROUND_ROBIN": round_robin,
    "LEAST_LOADED": least_loaded,
    "WEIGHTED": weighted,
    "PINNED": pinned,
}
