"""Candidates (a model's offers, with what was learned about them), and the strategies that order them."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec

from vllm_service.catalog.model import Offer, PromptCache, Provider, ProviderKind
from vllm_service.domain.requests import RequestFacts
from vllm_service.errors import InvalidRequest
from vllm_service.routing.capacity import Endpoint
from vllm_service.routing.estimates import CachedPrefixes, MeanByCaller
from vllm_service.routing.profiles import LatencyTarget

_GUESSED_FIRST_TOKEN_SECONDS, _GUESSED_TOKEN_SECONDS = 0.6, 0.015


class Candidate:
    """One offer, with what was learned about it. Prices are in pico-dollars per token."""

    __slots__ = (
        "discount_picousd", "divides_cache", "endpoint", "first_token_seconds", "has_plain_price",
        "in_flight", "input_picousd", "is_priced", "late_until", "model", "name", "offer", "output_picousd", "position",
        "prompt_cache", "provider", "token_seconds", "weight",
    )  # fmt: skip

    def __init__(self, provider: Provider, offer: Offer, endpoint: Endpoint | None, position: int) -> None:
        self.provider, self.offer, self.endpoint, self.position = provider, offer, endpoint, position
        self.name, self.model = provider.name, offer.model
        price = offer.price
        by_second = provider.kind is ProviderKind.RUNPOD and provider.second_price is not None
        #: Whether its marginal cost is known; COST leaves other offers out.
        self.is_priced = by_second if endpoint is not None else price is not None
        self.input_picousd = price.input_picousd if price else 0
        self.output_picousd = price.output_picousd if price else 0
        cached = price.cached_input_picousd if price else None
        #: What a cached prompt token costs less.
        self.discount_picousd = 0 if cached is None else self.input_picousd - cached
        #: Whether the cost is tokens x price and nothing else, which the router computes without a call.
        self.has_plain_price = endpoint is None and price is not None and not self.discount_picousd
        self.weight = offer.weight
        self.in_flight = 0
        #: Until when a Retry-After holds, by organisation, since a 429 may be about what one of them sends.
        self.late_until: dict[str, float] = {}
        #: Whether each organisation finds only its own prompts in the provider's cache.
        self.divides_cache = provider.prompt_cache is not PromptCache.SHARED
        self.prompt_cache = CachedPrefixes()
        #: By organisation: what one sends may take longer than what others send.
        self.first_token_seconds: MeanByCaller[str] = MeanByCaller(_GUESSED_FIRST_TOKEN_SECONDS)
        self.token_seconds: MeanByCaller[str] = MeanByCaller(_GUESSED_TOKEN_SECONDS)

    def seconds_late(self, facts: RequestFacts, now: float) -> float:
        """Returns how long a Retry-After still holds for the request's organisation; COST puts the offer last then."""
        return max(0.0, self.late_until.get(facts.organisation, 0.0) - now)

    def late(self, organisation: str, until: float, now: float) -> None:
        """Keeps a Retry-After, and drops those that are over."""
        self.late_until = {name: moment for name, moment in self.late_until.items() if moment > now}
        self.late_until[organisation] = until

    def take_over(self, known: Candidate) -> None:
        """Keeps what was learned of the same offer before the configuration was read again."""
        self.prompt_cache, self.late_until = known.prompt_cache, known.late_until
        self.first_token_seconds, self.token_seconds = known.first_token_seconds, known.token_seconds

    def prefix_of(self, facts: RequestFacts) -> int:
        """Returns what the request's prompt is found by in the provider's cache; 0 if it is too short for that."""
        if self.divides_cache and facts.prefix:
            return hash((facts.organisation, facts.prefix)) or 1
        return facts.prefix

    def follows(self, prefix: int, now: float) -> bool:
        """Returns whether a prompt of this `prefix_of` comes after one that this offer has read lately.

        At an endpoint only where the worker that has read it is the only one: RunPod chooses which one gets a job.
        """
        endpoint = self.endpoint
        if endpoint is None:
            return self.prompt_cache.has_read(prefix, now)
        return endpoint.serving == 1 and self.prompt_cache.has_read(prefix, now, endpoint.serving_since)

    def cached_tokens(self, facts: RequestFacts, now: float) -> int:
        """Returns how many prompt tokens are expected to be cached here; 0 unless such a prompt was read."""
        prefix = self.prefix_of(facts)
        if not prefix or not self.follows(prefix, now):
            return 0
        return self.prompt_cache.cached_tokens(prefix, facts.prompt_tokens, facts.organisation, now)

    def expected_seconds(self, facts: RequestFacts, completion_tokens: float, now: float) -> float:
        """Returns the expected time to the end of the answer; infinite for an endpoint with no worker."""
        endpoint = self.endpoint
        if endpoint is None:
            first_token = self.first_token_seconds.expect(facts.organisation)
            return first_token + completion_tokens * self.token_seconds.expect(facts.organisation)
        batch = (endpoint.in_flight + 1.0) / max(1, endpoint.serving)
        unread = facts.prompt_tokens - self.cached_tokens(facts, now)
        return endpoint.first_token_seconds(unread, now) + completion_tokens * endpoint.token_seconds.at(batch)


Ordered = tuple[list[Candidate], str]


class Turns:
    """The memory of strategies between the requests of one model: the turn, a debt, and random numbers."""

    __slots__ = ("count", "dice", "own_debt")

    def __init__(self, seed: int = 0) -> None:
        self.count = 0
        #: BALANCED's: how many requests the own endpoint is behind its share.
        self.own_debt = 0.0
        self.dice = random.Random(seed)  # noqa: S311  # it shares out load, it guards nothing


class Choice(msgspec.Struct):
    """One request, and the candidates that the rules have left."""

    facts: RequestFacts
    candidates: list[Candidate]
    target: LatencyTarget
    #: The expected length of the answer.
    completion_tokens: float
    #: Marginal pico-dollars by a candidate's position; None where the price is unknown.
    costs: list[int | None]
    now_seconds: float
    turns: Turns
    own_share: float


Strategy = Callable[[Choice], Ordered]


def by_cost(choice: Choice) -> Ordered:
    """Orders own workers that are predicted to be in time first, then hosted offers by cost, then busy own ones.

    Offers of unknown price are left out. Only an endpoint whose worker is warm is predicted to be in time.
    """
    prompt, now, costs = choice.facts.prompt_tokens, choice.now_seconds, choice.costs
    ready: list[Candidate] = []
    busy: list[Candidate] = []
    hosted: list[tuple[int, int, Candidate]] = []
    for candidate in choice.candidates:
        cost = costs[candidate.position]
        if cost is None:
            continue
        if candidate.endpoint is None:
            is_late = candidate.late_until and candidate.seconds_late(choice.facts, now)
            hosted.append((cost + _LAST if is_late else cost, candidate.position, candidate))
        elif candidate.endpoint.accepts(
            choice.target, prompt, candidate.cached_tokens(choice.facts, now), choice.completion_tokens, now
        ):
            ready.append(candidate)
        else:
            busy.append(candidate)
    hosted.sort()
    cheapest = [entry[2] for entry in hosted]
    if len(ready) > 1:
        ready.sort(key=lambda candidate: costs[candidate.position] or 0)
    if ready:
        return ready + cheapest + busy, f"a warm own worker has room ({ready[0].provider.name})"
    if cheapest:
        return cheapest + busy, _OWN_BUSY if busy and _serving(busy[0]) else _OWN_OFF
    return busy, "only the own endpoint serves it at a known price"


#: Added to the cost of an offer whose Retry-After still holds: more than any cost, so it sorts behind all others.
_LAST = 1 << 62
_OWN_BUSY, _OWN_OFF = "cheapest hosted; own workers are busy", "cheapest hosted; own workers are off"


def _serving(candidate: Candidate) -> bool:
    return candidate.endpoint is not None and candidate.endpoint.serving > 0


def by_latency(choice: Choice) -> Ordered:
    """Orders by the expected end of the answer. A cold endpoint is last: no probe wakes a worker."""
    timed = sorted(
        (candidate.expected_seconds(choice.facts, choice.completion_tokens, choice.now_seconds), candidate.position)
        for candidate in choice.candidates
    )
    by_position = {candidate.position: candidate for candidate in choice.candidates}
    return [by_position[position] for _, position in timed], f"the fastest of late: {timed[0][0]:.2f} s expected"


def by_quality(choice: Choice) -> Ordered:
    """Keeps the configured order: the operator puts the best first in models.yaml."""
    return sorted(choice.candidates, key=lambda candidate: candidate.position), "quality: the configured order"


def balanced(choice: Choice) -> Ordered:
    """Sends `own_share` of requests to own endpoints, evenly spread, the rest to hosted offers."""
    own = [candidate for candidate in choice.candidates if candidate.endpoint is not None]
    hosted = [candidate for candidate in choice.candidates if candidate.endpoint is None]
    choice.turns.own_debt += choice.own_share
    own_turn = choice.turns.own_debt >= 1.0 - 1e-9  # sums of a float share miss 1 by a little
    if own_turn:
        choice.turns.own_debt -= 1.0
    first, then = (own, hosted) if own_turn else (hosted, own)
    return first + then, f"balanced: {choice.own_share:.0%} to own endpoints"


def round_robin(choice: Choice) -> Ordered:
    """Takes the offers in turn."""
    turn = choice.turns.count % len(choice.candidates)
    choice.turns.count += 1
    return choice.candidates[turn:] + choice.candidates[:turn], "round robin"


def least_loaded(choice: Choice) -> Ordered:
    """Orders by requests in flight, the fewest first."""
    order = sorted(choice.candidates, key=lambda candidate: (candidate.in_flight, candidate.position))
    return order, "least loaded"  # how many are in flight there is not for callers, who get the reason


def weighted(choice: Choice) -> Ordered:
    """Draws by the offers' weights, without putting back; weight 0 comes last, as configured.

    Sorting by u ** (1 / weight), with u uniform, is that draw (Efraimidis and Spirakis, 2006).
    """
    dice = choice.turns.dice
    order = sorted(
        choice.candidates,
        key=lambda candidate: (
            dice.random() ** (1.0 / candidate.weight) if candidate.weight > 0 else -candidate.position
        ),
        reverse=True,
    )
    return order, "drawn by weight"


def pinned(choice: Choice) -> Ordered:
    """Takes one offer only: the requested one, else the first that is configured. Nothing is tried after it."""
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


def find_strategy(name: str) -> Strategy:
    """Raises InvalidRequest for a name that is none of STRATEGIES; case does not matter."""
    strategy = STRATEGIES.get(name) or STRATEGIES.get(name.upper())
    if strategy is None:
        raise InvalidRequest(f"There is no strategy {name!r}. Strategies: {', '.join(STRATEGIES)}.", param="strategy")
    return strategy
