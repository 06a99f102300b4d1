"""A public model as the router uses it: compiled once from the catalog, with what was learned of its answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from vllm_service.catalog.model import Catalog, ProviderKind, PublicModel
from vllm_service.domain.money import PICOUSD_PER_USD
from vllm_service.domain.requests import RequestFacts
from vllm_service.errors import ConfigurationError
from vllm_service.routing.capacity import Endpoint
from vllm_service.routing.cost import marginal_picousd
from vllm_service.routing.demand.counterfactual import Demand
from vllm_service.routing.demand.endpoint_demand import EndpointDemand
from vllm_service.routing.estimates import AnswerLengths
from vllm_service.routing.profiles import EndpointProfile, LatencyTarget, RouterSettings
from vllm_service.routing.strategies import Candidate, Turns, find_strategy


class Route:
    """A public model, compiled: its candidates, strategy and target, and the lengths of its answers."""

    __slots__ = (
        "_hosted",
        "by_provider",
        "candidates",
        "controllers",
        "has_bounds",
        "hosted_positions",
        "lengths",
        "model",
        "own",
        "strategy",
        "target",
        "turns",
    )

    def __init__(self, model: PublicModel, candidates: list[Candidate], settings: RouterSettings) -> None:
        self.model, self.candidates = model, candidates
        #: Whether filters.check_model has anything to check for every request.
        self.has_bounds = model.context_length is not None
        self.by_provider = {(candidate.provider.name, candidate.offer.model): candidate for candidate in candidates}
        self.own = [candidate for candidate in candidates if candidate.endpoint is not None]
        #: Where demand for this model is logged; see `wakes`.
        self.controllers: list[EndpointDemand] = []
        self.strategy = find_strategy(model.strategy or settings.default_strategy)
        self.target = settings.target
        if model.latency_target_seconds is not None:
            self.target = replace(settings.target, ttft_seconds=model.latency_target_seconds)
        self.lengths = AnswerLengths()
        self.turns = Turns()
        self.hosted_positions = [candidate.position for candidate in candidates if candidate.endpoint is None]
        self._hosted = [candidate for candidate in candidates if candidate.endpoint is None]

    def wakes(self, controllers: Mapping[str, EndpointDemand]) -> None:
        """Sets the controllers of the model's own endpoints, at which its demand is logged."""
        self.controllers = [controllers[candidate.name] for candidate in self.own]

    def demands(
        self, facts: RequestFacts, hosted_picousd: list[int], completion: float, target: LatencyTarget, now: float
    ) -> list[Demand]:
        """Logs a request at the model's own endpoints, and returns what its end is reported to."""
        if not hosted_picousd:
            return []
        cheapest = min(hosted_picousd)
        made = []
        for controller in self.controllers:
            demand = Demand(
                now, cheapest, facts.prompt_tokens, completion, target, facts.organisation, log=controller.log
            )
            controller.demand(demand)
            made.append(demand)
        return made

    def take_over(self, before: Route | None, endpoints: Mapping[str, Endpoint]) -> None:
        """Keeps what was learned of answers' lengths and of offers. endpoints: those that the router has now."""
        if before is not None:
            self.lengths, self.turns = before.lengths, before.turns
        for key, candidate in self.by_provider.items():
            if candidate.endpoint is not None:
                candidate.endpoint = endpoints[candidate.name]
            known = None if before is None else before.by_provider.get(key)
            if known is not None:
                candidate.take_over(known)

    def target_of(self, facts: RequestFacts) -> LatencyTarget:
        """Returns the model's target, with the caller's wait for the first token where there is one."""
        if facts.latency_target_seconds is None:
            return self.target
        return replace(self.target, ttft_seconds=facts.latency_target_seconds)

    def hosted_picousd(self, facts: RequestFacts, completion_tokens: int, now: float) -> int | None:
        """Returns what the cheapest hosted offer of a known price would take; None if there is none."""
        prices = [marginal_picousd(candidate, facts, completion_tokens, now) for candidate in self._hosted]
        return min((price for price in prices if price is not None), default=None)


def make_endpoints(catalog: Catalog, settings: RouterSettings) -> dict[str, Endpoint]:
    """Returns one endpoint per RunPod provider whose price per second is known, by the provider's name."""
    endpoints = {}
    for name, provider in catalog.providers.items():
        if provider.kind is ProviderKind.RUNPOD and provider.second_price is not None:
            profile = settings.profiles.get(name, EndpointProfile())
            usd = provider.second_price.picousd_per_microsecond * 1e6 / PICOUSD_PER_USD
            endpoints[name] = Endpoint(name, profile, usd, settings.cost_margin, settings.miss_budget)
    return endpoints


def make_candidates(catalog: Catalog, model: PublicModel, endpoints: Mapping[str, Endpoint]) -> list[Candidate]:
    """Returns the candidates in configured order. Raises ConfigurationError for an offer of an unknown provider."""
    for offer in model.offers:
        if offer.provider not in catalog.providers:
            raise ConfigurationError(
                f"The model {model.name} names the provider {offer.provider}, which is not configured: add it to "
                "providers.yaml, or take the offer out of models.yaml."
            )
    return [
        Candidate(catalog.providers[offer.provider], offer, endpoints.get(offer.provider), position)
        for position, offer in enumerate(model.offers)
    ]
