"""The real router as a policy of the simulator: its plan is followed, and it is told what the gateway would tell it."""

from __future__ import annotations

from types import MappingProxyType

from vllm_service.catalog.model import Catalog, Offer, Provider, ProviderKind, PublicModel
from vllm_service.domain.plan import AttemptObserver, Step
from vllm_service.domain.pricing import SecondPrice, TokenPrice
from vllm_service.domain.requests import RequestFacts
from vllm_service.domain.usage import Usage
from vllm_service.routing.profiles import RouterSettings
from vllm_service.routing.router import CostRouter
from vllm_service.simulation.endpoint import Endpoint
from vllm_service.simulation.replay import HostedAnswer, Replay
from vllm_service.simulation.scenario import Scenario

OWN, MODEL = "own", "model"
_LOOK_SECONDS = 1.0


def catalog_of(scenario: Scenario) -> Catalog:
    """The scenario as the gateway's configuration: one model, offered by the own endpoint and each hosted provider."""
    price = SecondPrice.per_second(f"{scenario.own.usd_per_second:.6f}")
    providers = {OWN: Provider(OWN, ProviderKind.RUNPOD, "http://own/v1", second_price=price)}
    offers = [Offer(OWN, MODEL)]
    for place in scenario.hosted:
        providers[place.name] = Provider(place.name, ProviderKind.HOSTED, f"http://{place.name}/v1")
        token_price = TokenPrice.per_million(
            f"{place.input_usd_per_million:.6f}", f"{place.output_usd_per_million:.6f}"
        )
        offers.append(Offer(place.name, MODEL, token_price))
    model = PublicModel(MODEL, tuple(offers))
    return Catalog(MappingProxyType(providers), MappingProxyType({MODEL: model}))


def settings_of(scenario: Scenario) -> RouterSettings:
    """What the router is told of the endpoint before it has measured it."""
    profiles = MappingProxyType({OWN: scenario.own.profile})
    return RouterSettings(profiles=profiles, target=scenario.target, max_steps=1 + len(scenario.hosted))


class CostPolicy:
    """CostRouter on the virtual clock: asked for worker targets once a second while anything is going on.

    That is until nothing speaks for a worker. looks_always: also then, as the gateway does, which changes hardly
    anything; a week's trace takes several times as long.
    """

    looks_always = False

    def begin(self, replay: Replay) -> Endpoint:
        """An endpoint whose workers the router sets."""
        self.replay = replay
        self.router = CostRouter(catalog_of(replay.scenario), self.settings(replay.scenario))
        self._numbers = {place.name: number for number, place in enumerate(replay.scenario.hosted)}
        self._attempts: dict[int, AttemptObserver] = {}  # of those that the own endpoint has
        self._looking = self._closed = False
        endpoint = Endpoint(replay.scenario.own, replay.draws)
        endpoint.on_change = self._worker_states_changed
        self._workers = endpoint
        endpoint.set_target(0, 0.0)
        if self.looks_always:
            replay.at(0.0, self._look)
        return endpoint

    def settings(self, scenario: Scenario) -> RouterSettings:
        """What the router is told of the endpoint."""
        return settings_of(scenario)

    def arrived(self, request: int, now: float) -> None:
        """Planned, and sent to the first place that takes it."""
        if not self._looking:
            self._look()  # the silence before this request is over, and not to be weighed against it
            if not self._looking:
                self._looking = True
                self.replay.at(now + _LOOK_SECONDS, self._look)
        facts = self.facts_of(request)
        steps = self.router.plan(facts, now).steps
        self._send(request, facts, steps, now)

    def facts_of(self, request: int) -> RequestFacts:
        """What the router is told of a request that has arrived."""
        return RequestFacts(MODEL, "chat.completions", int(self.replay.prompts[request]), stream=True)

    def first_token(self, request: int, now: float) -> None:
        """Told to the router when the caller sees it."""
        overhead = self.replay.scenario.own.profile.overhead_seconds
        self._attempts[request].first_token(now + overhead)

    def ended(self, request: int, now: float) -> None:
        """Told to the router."""
        overhead = self.replay.scenario.own.profile.overhead_seconds
        self._attempts.pop(request).succeeded(self._usage_of(request), now + overhead)

    def close(self, now: float) -> None:
        """The last workers leave."""
        self._closed = True
        self.replay.endpoint.close(now)

    def _send(self, request: int, facts: RequestFacts, steps: tuple[Step, ...], now: float) -> None:
        first = steps[0]
        if first.provider == OWN:
            self._attempts[request] = self.router.started(first, facts, now)
            self.replay.send_own(request)
            return
        order = tuple(self._numbers[step.provider] for step in steps if step.provider != OWN)
        answer = self.replay.ask_hosted(request, order)
        self.replay.book_hosted(request, answer)
        if answer.rejections:
            refused = next(step for step in steps if step.provider != OWN)
            self.router.started(refused, facts, now).failed(429, None, now)
        used = next(step for step in steps if self._numbers.get(step.provider) == answer.provider)
        attempt = self.router.started(used, facts, now)
        self.replay.at(answer.first_token_at, self._hosted_first_token, attempt, answer)
        self.replay.at(answer.ends_at, self._hosted_ended, request, attempt)

    def _hosted_first_token(self, attempt: AttemptObserver, answer: HostedAnswer) -> None:
        attempt.first_token(answer.first_token_at)

    def _hosted_ended(self, request: int, attempt: AttemptObserver) -> None:
        attempt.succeeded(self._usage_of(request), self.replay.now)

    def _usage_of(self, request: int) -> Usage:
        return Usage(int(self.replay.prompts[request]), int(self.replay.completions[request]))

    def _look(self) -> None:
        now = self.replay.now
        (target,) = self.router.worker_targets(now)
        if not self._closed:
            self.replay.endpoint.set_target(target.workers, now)
        going_on = self.looks_always or not self.router.controllers[OWN].is_quiet
        self._looking = going_on and not self._closed
        if self._looking:
            self.replay.at(now + _LOOK_SECONDS, self._look)

    def _worker_states_changed(self, now: float) -> None:
        taking = sum(not worker.draining for worker in self._workers.warm)
        seen = {"workers": {"ready": taking, "initializing": len(self._workers.starting)}}
        self.replay.at(now + self.replay.scenario.own.state_lag_seconds, self._observed, seen)

    def _observed(self, seen: dict[str, object]) -> None:
        self.router.observe_health(OWN, seen, self.replay.now)
