"""The real router as a policy of the simulator: its plans are followed, and attempts reported as by the gateway."""

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

OWN = "own"
MODEL = "model"
#: How often worker targets are read; as the gateway's rounds.
_ROUND_SECONDS = 1.0


def catalog_of(scenario: Scenario) -> Catalog:
    """Returns the scenario as a configuration: one model, offered by the own endpoint and each hosted provider."""
    price = SecondPrice.per_second(f"{scenario.own.usd_per_second:.6f}")
    providers = {OWN: Provider(OWN, ProviderKind.RUNPOD, "http://own/v1", second_price=price)}
    offers = [Offer(OWN, MODEL)]
    for hosted in scenario.hosted:
        providers[hosted.name] = Provider(hosted.name, ProviderKind.HOSTED, f"http://{hosted.name}/v1")
        token_price = TokenPrice.per_million(
            f"{hosted.input_usd_per_million:.6f}", f"{hosted.output_usd_per_million:.6f}"
        )
        offers.append(Offer(hosted.name, MODEL, token_price))
    model = PublicModel(MODEL, tuple(offers))
    return Catalog(MappingProxyType(providers), MappingProxyType({MODEL: model}))


def settings_of(scenario: Scenario) -> RouterSettings:
    """Returns the router's settings: its profile of the endpoint is the scenario's physics."""
    profiles = MappingProxyType({OWN: scenario.own.profile})
    return RouterSettings(profiles=profiles, target=scenario.target, max_steps=1 + len(scenario.hosted))


class CostPolicy:
    """Runs CostRouter on the virtual clock; worker targets are read once a second until nothing speaks for a worker."""

    #: Whether they are read also then, as the gateway does; that changes hardly anything, but takes several times as
    #: long for a week's trace.
    looks_always = False

    def begin(self, replay: Replay) -> Endpoint:
        """Returns an endpoint whose workers the router sets."""
        self.replay = replay
        self.router = CostRouter(catalog_of(replay.scenario), self.settings(replay.scenario))
        self._numbers = {hosted.name: number for number, hosted in enumerate(replay.scenario.hosted)}
        #: Attempts at the own endpoint that are under way, by request.
        self._attempts: dict[int, AttemptObserver] = {}
        #: Whether the next round is scheduled.
        self._is_scheduled = False
        self._closed = False
        endpoint = Endpoint(replay.scenario.own, replay.draws)
        endpoint.on_change = self._worker_states_changed
        self._workers = endpoint
        endpoint.set_target(0, 0.0)
        if self.looks_always:
            replay.at(0.0, self._round)
        return endpoint

    def settings(self, scenario: Scenario) -> RouterSettings:
        """Returns the router's settings; a subclass may give it other expectations of the endpoint."""
        return settings_of(scenario)

    def arrived(self, request: int, now: float) -> None:
        """Plans it, and sends it to the first offer that takes it."""
        if not self._is_scheduled:
            self._round()  # the silence before this request is over, and not to be weighed against it
            if not self._is_scheduled:
                self._is_scheduled = True
                self.replay.at(now + _ROUND_SECONDS, self._round)
        facts = self.facts_of(request)
        steps = self.router.plan(facts, now).steps
        self._send(request, facts, steps, now)

    def facts_of(self, request: int) -> RequestFacts:
        """Returns the facts of a request that has arrived."""
        return RequestFacts(MODEL, "chat.completions", int(self.replay.prompts[request]), stream=True)

    def first_token(self, request: int, now: float) -> None:
        """Reports the first token to the router, at the time when the caller gets it."""
        overhead = self.replay.scenario.own.profile.overhead_seconds
        self._attempts[request].first_token(now + overhead)

    def ended(self, request: int, now: float) -> None:
        """Reports the end of an own answer to the router."""
        overhead = self.replay.scenario.own.profile.overhead_seconds
        self._attempts.pop(request).succeeded(self._usage_of(request), now + overhead)

    def close(self, now: float) -> None:
        """Ends the run: the last workers stop."""
        self._closed = True
        self.replay.endpoint.close(now)

    def _send(self, request: int, facts: RequestFacts, steps: tuple[Step, ...], now: float) -> None:
        first = steps[0]
        if first.provider == OWN:
            self._attempts[request] = self.router.started(first, facts, now)
            self.replay.send_own(request)
            return
        order = tuple(self._numbers[step.provider] for step in steps if step.provider != OWN)
        answer = self.replay.try_hosted(request, order)
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

    def _round(self) -> None:
        now = self.replay.now
        (target,) = self.router.worker_targets(now)
        if not self._closed:
            self.replay.endpoint.set_target(target.workers, now)
        going_on = self.looks_always or not self.router.controllers[OWN].is_quiet
        self._is_scheduled = going_on and not self._closed
        if self._is_scheduled:
            self.replay.at(now + _ROUND_SECONDS, self._round)

    def _worker_states_changed(self, now: float) -> None:
        taking = sum(not worker.draining for worker in self._workers.warm)
        # Workers that are let go take no jobs, so they are not reported as ready.
        seen = {"workers": {"ready": taking, "initializing": len(self._workers.starting)}}
        self.replay.at(now + self.replay.scenario.own.state_lag_seconds, self._observed, seen)

    def _observed(self, seen: dict[str, object]) -> None:
        self.router.observe_health(OWN, seen, self.replay.now)
