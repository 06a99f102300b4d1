"""The router: makes an ordered plan from a request's facts and a time, and learns from each attempt."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

import msgspec

from vllm_service.catalog.model import Catalog
from vllm_service.domain.money import PICOUSD_PER_USD
from vllm_service.domain.plan import ListedWorkers, Plan, Step, WorkerTarget
from vllm_service.domain.requests import RequestFacts
from vllm_service.domain.usage import Usage
from vllm_service.errors import ModelNotFound
from vllm_service.routing import filters
from vllm_service.routing.capacity import STATES_LATE_SECONDS, Endpoint
from vllm_service.routing.cost import marginal_picousd
from vllm_service.routing.demand.endpoint_demand import EndpointDemand
from vllm_service.routing.model_route import Route, make_candidates, make_endpoints
from vllm_service.routing.profiles import LatencyTarget, RouterSettings
from vllm_service.routing.strategies import Candidate, Choice, find_strategy


class ObservedAttempt(msgspec.Struct):
    """A plan.AttemptObserver. Two of them may be open at one offer, or at two offers of one provider: a hedge."""

    route: Route
    #: The offer to which the request was sent.
    candidate: Candidate
    facts: RequestFacts
    began: float
    #: Whether the offer has lately read a prompt that begins as this one.
    follows: bool
    #: At an endpoint: prompt tokens that it is expected to have to read.
    to_read: int = 0
    #: At an endpoint: whether no other prompt was waiting there.
    alone: bool = False
    #: 0 until it has come.
    first_token_at: float = 0.0
    is_over: bool = False
    #: At an endpoint: where it was booked what the answer saves, which is taken back if there is none.
    demand: EndpointDemand | None = None
    saved_usd: float = 0.0

    @classmethod
    def sent(cls, route: Route, candidate: Candidate, facts: RequestFacts, now: float) -> ObservedAttempt:
        """Returns the observer of a request that has been sent to this offer, and counts the request there."""
        # With a plain price cached tokens change nothing, so no prefixes are kept.
        follows = not candidate.has_plain_price and candidate.follows(candidate.prefix_of(facts), now)
        attempt = cls(route, candidate, facts, now, follows)
        candidate.in_flight += 1
        if candidate.endpoint is not None:
            attempt.to_read = facts.prompt_tokens - candidate.cached_tokens(facts, now)
            attempt.alone = candidate.endpoint.unread_tokens <= 0
            candidate.endpoint.sent(attempt.to_read, now)
        return attempt

    def waited(self, seconds: float) -> None:
        """Leaves the wait for a connection out of what is learned about the offer."""
        self.began += seconds

    def first_token(self, now: float) -> None:
        """Learns the wait for the first token; not of a whole answer, whose first byte comes with its last token."""
        if self.first_token_at or self.is_over or not self.facts.stream:
            return
        candidate = self.candidate
        waited = now - self.began
        self.first_token_at = now
        candidate.first_token_seconds.add(self.facts.organisation, waited)
        if candidate.endpoint is not None:
            candidate.endpoint.read(self.to_read)

    def succeeded(self, usage: Usage | None, now: float, *, is_timed: bool = True) -> None:
        """Learns speeds, the answer's length and the cached share from a complete answer.

        is_timed: False where the caller has read so slowly that the end says nothing about the provider's speed.
        """
        if self.is_over:
            return
        self.is_over = True
        candidate, facts = self.candidate, self.facts
        candidate.in_flight -= 1
        if candidate.endpoint is not None:
            self._own_finished(candidate.endpoint, usage, now, is_timed=is_timed)
        elif is_timed and self.first_token_at and usage is not None and usage.completion_tokens > 1:
            seconds = (now - self.first_token_at) / (usage.completion_tokens - 1)
            candidate.token_seconds.add(facts.organisation, seconds)
        if usage is not None:
            self.route.lengths.add(facts.key_id, facts.operation, usage.completion_tokens)
            if usage.prompt_tokens > 0 and not usage.estimated and not candidate.has_plain_price:
                prefix, share = candidate.prefix_of(facts), usage.cached_tokens / usage.prompt_tokens
                candidate.prompt_cache.add(prefix, self.follows, share, facts.organisation, now)

    def failed(self, status: int, retry_after_seconds: float | None, now: float) -> None:
        """Learns nothing from a failure but a 429's Retry-After, until which the offer is the organisation's last."""
        if self.is_over:
            return
        self.abandoned(now)
        if status == 429 and retry_after_seconds:
            self.candidate.late(self.facts.organisation, now + retry_after_seconds, now)

    def abandoned(self, now: float) -> None:
        """Takes the request off those in flight."""
        if self.is_over:
            return
        self.is_over = True
        candidate = self.candidate
        candidate.in_flight -= 1
        if candidate.endpoint is not None:
            if not self.first_token_at:
                candidate.endpoint.read(self.to_read)
            candidate.endpoint.left()
        if self.demand is not None:
            self.demand.took(-self.saved_usd)

    def _own_finished(self, endpoint: Endpoint, usage: Usage | None, ended: float, *, is_timed: bool) -> None:
        began, first_token_at, target = self.began, self.first_token_at, self.route.target
        if not first_token_at:
            endpoint.read(self.to_read)
        if usage is not None and is_timed:
            prompt, tokens = self.facts.prompt_tokens, usage.completion_tokens
            if not usage.estimated and usage.prompt_tokens > prompt:
                prompt = usage.prompt_tokens  # an estimate that was too low must not make the worker late
            # Behind other prompts the wait is not the prompt's own. How much was read is by the worker's count: an
            # estimate can be far off for some texts, and would teach a false speed.
            if first_token_at and self.alone and usage.prompt_tokens > 0:
                endpoint.measured_answer(first_token_at - began, usage.prompt_tokens - usage.cached_tokens)
            if first_token_at and tokens > 1:
                endpoint.measured_token((ended - first_token_at) / (tokens - 1), ended)
            # Judged by the model's own target, also where the caller has set another.
            allowed = target.first_token_seconds(prompt)
            in_time = not first_token_at or first_token_at - began <= allowed
            in_time = in_time and ended - began <= allowed + target.seconds_per_output_token * tokens
            endpoint.judged(in_time)
        endpoint.left()


class BreakerView(Protocol):
    """The circuit breakers of offers, as far as plans look at them."""

    @property
    def not_closed(self) -> Collection[tuple[str, str]]:
        """Providers, and models there, whose breakers may refuse a request; all others let every request by."""
        ...

    def may_try(self, provider: str, model: str, now_seconds: float, organisation: str) -> bool:
        """Returns whether a breaker would admit a request of the organisation now."""
        ...


class CostRouter:
    """Implements plan.Router over a catalog. breakers: offers that they refuse are left out of plans."""

    def __init__(
        self,
        catalog: Catalog,
        settings: RouterSettings | None = None,
        breakers: BreakerView | None = None,
    ) -> None:
        self._settings = settings = settings or RouterSettings()
        self._breakers = breakers
        self.endpoints = make_endpoints(catalog, settings)
        #: How many workers the platform lets an endpoint have, where that is known; and those that may have none.
        self._most_workers: dict[str, int] = {}
        self._switched_off: frozenset[str] = frozenset()
        self.controllers = {
            name: EndpointDemand(
                endpoint.profile.max_workers,
                endpoint.usd_per_second,
                endpoint.profile.always_on_workers,
                settings.organisation_share,
            )
            for name, endpoint in self.endpoints.items()
        }
        routes: dict[int, Route] = {}
        self._routes: dict[str, Route] = {}
        for name, model in catalog.models.items():
            if id(model) not in routes:
                routes[id(model)] = Route(model, make_candidates(catalog, model, self.endpoints), settings)
                routes[id(model)].wakes(self.controllers)
            self._routes[name] = routes[id(model)]

    def plan(self, facts: RequestFacts, now_seconds: float) -> Plan:
        """Returns the plan. Raises ModelNotFound, ContextTooLong, InvalidRequest, ModelUnavailable."""
        route = self._routes.get(facts.model) or self._route(facts)
        completion = route.lengths.expect(facts.key_id, facts.operation, facts.max_tokens)
        candidates = route.candidates
        is_ruled = facts.tags or facts.provider is not None or facts.cap_picousd is not None or facts.needs_price
        has_absent = self._switched_off or (self._breakers is not None and self._breakers.not_closed)
        if is_ruled or route.has_bounds or has_absent:
            candidates = self._allowed(route, facts, completion, now_seconds)
        strategy = route.strategy if facts.strategy is None else find_strategy(facts.strategy)
        target = route.target if facts.latency_target_seconds is None else route.target_of(facts)
        prompt, answer = facts.prompt_tokens, int(completion)
        # By position, so that strategies need no look-up. A plain price is worked out here: a call costs more than it.
        costs = [
            prompt * candidate.input_picousd + answer * candidate.output_picousd
            if candidate.has_plain_price
            else marginal_picousd(candidate, facts, answer, now_seconds)
            for candidate in route.candidates
        ]
        choice = Choice(
            facts, candidates, target, completion, costs, now_seconds, route.turns, self._settings.own_share
        )
        ordered, reason = strategy(choice)
        if not ordered:
            raise filters.unpriced(facts)
        steps = [
            Step(candidate.name, candidate.model, costs[candidate.position])
            for candidate in ordered[: self._settings.max_steps]
        ]
        if not route.controllers:
            return Plan(tuple(steps), reason)
        hosted = [cost for position in route.hosted_positions if (cost := costs[position]) is not None]
        return Plan(tuple(steps), reason, route.demands(facts, hosted, completion, target, now_seconds))

    # What an explanation looks at.

    def candidates_of(self, facts: RequestFacts) -> list[Candidate]:
        """Returns every offer of the model, in configured order. Raises ModelNotFound."""
        return self._route(facts).candidates

    def target_of(self, facts: RequestFacts) -> LatencyTarget:
        """Returns the latency target that holds for the request."""
        return self._route(facts).target_of(facts)

    def expected_tokens(self, facts: RequestFacts) -> float:
        """Returns the expected length of the answer."""
        return self._route(facts).lengths.expect(facts.key_id, facts.operation, facts.max_tokens)

    def may_try(self, candidate: Candidate, facts: RequestFacts, now_seconds: float) -> bool:
        """Returns whether the offer's breakers let the request by."""
        breakers = self._breakers
        return breakers is None or breakers.may_try(candidate.name, candidate.model, now_seconds, facts.organisation)

    def started(self, step: Step, facts: RequestFacts, now_seconds: float) -> ObservedAttempt:
        """Counts the request as sent to this offer, and returns the attempt's observer."""
        route = self._routes.get(facts.model) or self._route(facts)
        candidate = route.by_provider[step.provider, step.model]
        attempt = ObservedAttempt.sent(route, candidate, facts, now_seconds)
        if candidate.endpoint is not None:
            completion = route.lengths.expect(facts.key_id, facts.operation, facts.max_tokens)
            hosted = route.hosted_picousd(facts, int(completion), now_seconds)
            saved_usd = (hosted or 0) / PICOUSD_PER_USD * candidate.endpoint.share_paid_for_it
            attempt.demand = self.controllers[candidate.endpoint.name]
            attempt.demand.took(saved_usd)
            attempt.saved_usd = saved_usd
        return attempt

    def observe_health(
        self,
        provider: str,
        health: Mapping[str, object] | None,
        now_seconds: float,
        listed: ListedWorkers | None = None,
    ) -> None:
        """Takes an endpoint's workers as counted and as listed; a provider that is no endpoint changes nothing."""
        endpoint = self.endpoints.get(provider)
        if endpoint is not None:
            endpoint.observe(health, now_seconds, listed)
            self.controllers[provider].set_price(endpoint.usd_per_second)

    def observe_most_workers(self, provider: str, workers: int | None) -> None:
        """Takes how many workers an endpoint may have: no more are wanted, and with none it gets no request."""
        if self._most_workers.get(provider) == workers:
            return
        self._most_workers.pop(provider, None)
        if workers is not None:
            self._most_workers[provider] = workers
        self._switched_off = frozenset(name for name, most in self._most_workers.items() if most == 0)

    def is_switched_off(self, provider: str) -> bool:
        """Returns whether the platform lets the endpoint have no worker."""
        return provider in self._switched_off

    def take_over(self, before: CostRouter) -> None:
        """Keeps what the router before this learned of endpoints and models that are still configured as they were.

        Attempts under way go on reporting to the router before this; endpoints are the same objects for both.
        """
        for name, most in before._most_workers.items():
            self.observe_most_workers(name, most)
        for name in self.endpoints.keys() & before.endpoints.keys():
            if self.endpoints[name].is_configured_as(before.endpoints[name]):
                self.endpoints[name], self.controllers[name] = before.endpoints[name], before.controllers[name]
        for name, route in self._routes.items():
            route.take_over(before._routes.get(name), self.endpoints)
            route.wakes(self.controllers)

    def worker_targets(self, now_seconds: float) -> tuple[WorkerTarget, ...]:
        """Returns a target per endpoint, always-on workers included."""
        return tuple(self._target(name, endpoint, now_seconds) for name, endpoint in self.endpoints.items())

    def _target(self, name: str, endpoint: Endpoint, now: float) -> WorkerTarget:
        controller, profile = self.controllers[name], endpoint.profile
        estimated_usd = endpoint.billed_usd(now)
        wanted = controller.decide(
            now,
            endpoint.cold_start.value + STATES_LATE_SECONDS,
            profile.idle_timeout_seconds,
            endpoint.speeds(),
            estimated_usd,
        )
        most = self._most_workers.get(name, wanted)
        reason = f"demand is worth {controller.load_workers:.2f} workers"
        if most < wanted:
            wanted = most
            reason = f"{reason}, and the platform lets the endpoint have {most}"
        if wanted != endpoint.target or not endpoint.is_managed:
            endpoint.set_target(wanted, now)
        return WorkerTarget(name, wanted, reason, min(profile.always_on_workers, wanted), estimated_usd)

    def _route(self, facts: RequestFacts) -> Route:
        route = self._routes.get(facts.model)
        if route is None:
            raise ModelNotFound(facts.model, sorted(self._routes))
        return route

    def _allowed(self, route: Route, facts: RequestFacts, completion: float, now: float) -> list[Candidate]:
        candidates = route.candidates
        if facts.tags or route.model.context_length is not None:
            filters.check_model(route.model, facts)
        if facts.tags or facts.provider is not None or facts.cap_picousd is not None or facts.needs_price:
            candidates = filters.allowed(candidates, facts, completion)
        if self._switched_off:
            candidates = filters.startable(candidates, facts, self._switched_off)
        breakers = self._breakers
        if breakers is None or not breakers.not_closed:
            return candidates
        # Where every breaker is open the plan names them all: the breakers refuse at sending, and say until when.
        return [candidate for candidate in candidates if self.may_try(candidate, facts, now)] or candidates
