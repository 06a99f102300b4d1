"""LLMRouter: own endpoint and hosted providers behind one object, in process, without a gateway."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2

from vllm_service.autoscaling.controller import EndpointController
from vllm_service.catalog.model import Catalog
from vllm_service.client.boundary import raises_ours
from vllm_service.client.payload import Payload
from vllm_service.client.per_loop import OneLoop, PerLoop
from vllm_service.client.results import Answer
from vllm_service.client.router.routed_call import Connections, RoutedCall, own_endpoint
from vllm_service.client.settings import ClientSettings, seconds
from vllm_service.client.streams import TextStream
from vllm_service.client.text_calls import TextCalls
from vllm_service.domain.plan import Plan, Router
from vllm_service.domain.requests import RequestFacts
from vllm_service.domain.strategies import RoutingStrategy
from vllm_service.domain.usage import prefix_of
from vllm_service.errors import ConfigurationError
from vllm_service.resilience.breakers.breaker_settings import BreakerSettings
from vllm_service.resilience.breakers.shared import Breakers, SharedBreakers
from vllm_service.resilience.hedging import Hedging
from vllm_service.resilience.policy import Clock, ResiliencePolicy
from vllm_service.resilience.retry_schedule import DeadlineSettings, RetrySettings
from vllm_service.routing.profiles import RouterSettings
from vllm_service.routing.router import CostRouter
from vllm_service.runpod.endpoint import Reply, RunPodSettings
from vllm_service.settings import CatalogSettings
from vllm_service.storage.coordination.memory import MemoryWakes


def facts_of_chat(ask: Payload, strategy: str, *, stream: bool) -> RequestFacts:
    """Returns the routing facts of a chat request."""
    bounds = ask.bounds
    return RequestFacts(
        model=ask.model,
        operation="chat.completions",
        prompt_tokens=bounds.prompt_tokens,
        max_tokens=bounds.answer_tokens,
        stream=stream,
        prefix=prefix_of(ask.question_json),
        strategy=strategy,
        choices=bounds.choices,
    )


class EndpointWatch:
    """Reads the health of every endpoint of the catalog that is paid by the second and has a health route."""

    def __init__(self, connections: Connections) -> None:
        settings = RunPodSettings()
        self._connections = connections
        self._interval_seconds = settings.health_interval_seconds
        self._began_at: float | None = None
        wakes = MemoryWakes(connections.clock)
        self._controllers = PerLoop(
            "LLMRouter", lambda: _Keeping.begun(wakes, settings, connections.clock), _Keeping.end
        )
        paid_by_the_second = {
            name: provider
            for name, provider in connections.catalog.providers.items()
            if provider.second_price is not None
        }
        self._watched = Catalog(paid_by_the_second, connections.catalog.models)

    def look(self) -> None:
        """Starts a round unless one was started within the interval. Returns at once."""
        now = self._connections.clock()
        if self._began_at is None or now - self._began_at >= self._interval_seconds:
            self._began_at = now
            self._controllers.get().controller.round(self._watched, self._connections.router)

    async def close(self) -> None:
        """Ends the running requests."""
        await self._controllers.close()


@dataclass(frozen=True, slots=True)
class _Keeping:
    """The controller of one event loop, with its connections."""

    send: ControlRequests
    controller: EndpointController

    @classmethod
    def begun(cls, wakes: MemoryWakes, settings: RunPodSettings, clock: Clock) -> _Keeping:
        """Returns a new one. wakes: shared by all loops, so that no endpoint is woken twice."""
        send = ControlRequests()
        return cls(send, EndpointController(send, wakes, settings, clock=clock))

    async def end(self) -> None:
        """Ends the running requests, and closes the connections."""
        self.controller.stop()
        await self.controller.idle()
        await self.send.close()


class ControlRequests:
    """Implements runpod.SendHttp with httpx2, which the client has anyway. It connects at its first use."""

    def __init__(self) -> None:
        self._client: httpx2.AsyncClient | None = None

    async def __call__(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, timeout_seconds: float
    ) -> Reply:
        """Sends one request, and returns the reply. Raises OSError if there is none."""
        if self._client is None:
            self._client = httpx2.AsyncClient()
        try:
            answer = await self._client.request(
                method, url, headers=dict(headers), content=body, timeout=timeout_seconds
            )
        except httpx2.HTTPError as error:
            raise OSError(type(error).__name__) from error
        return Reply(answer.status_code, answer.content, dict(answer.headers))

    async def close(self) -> None:
        """Closes every connection."""
        if self._client is not None:
            await self._client.aclose()


@dataclass(frozen=True, slots=True)
class Explanation:
    """The route of a request: the offers in the order in which they would be tried, and the reason."""

    model: str
    strategy: RoutingStrategy
    plan: Plan


@raises_ours
class LLMRouter(TextCalls):
    """Sends each request to the provider that its strategy chooses, and to the next one if that fails before an answer.

    providers: the catalog; by default that of providers.yaml and models.yaml, else the endpoint of RUNPOD_*.
    default_model: one of its models; by default the first. router, breakers: by default ones of this process.
    gatekeeper: resilience.breakers.shared.SharedBreakers over those breakers, to share them through Redis.
    hedging: `Hedging(is_on=True)` sends a request to a second provider if the first is slow to begin.
    Prompts are sent as one user message, because every provider accepts that. Close it, or use `async with`.
    Raises ConfigurationError; every call raises ServiceError.
    """

    def __init__(
        self,
        strategy: RoutingStrategy | str = RoutingStrategy.BALANCED,
        providers: Catalog | None = None,
        *,
        default_model: str | None = None,
        router: Router | None = None,
        breakers: Breakers | None = None,
        gatekeeper: SharedBreakers | None = None,
        retries: RetrySettings | None = None,
        hedging: Hedging | None = None,
        timeout_seconds: float = 600.0,
        clock: Clock = time.monotonic,
    ) -> None:
        self.strategy = _strategy(strategy)
        seconds(timeout_seconds, "timeout_seconds")
        catalog = configured() if providers is None else providers
        super().__init__(default_model or _first_model(catalog))
        settings = BreakerSettings()
        breakers = breakers or Breakers(settings)
        policy = ResiliencePolicy(
            breakers,
            gatekeeper or SharedBreakers(breakers, None, clock, probe_seconds=settings.probe_seconds),
            retries or RetrySettings(),
            DeadlineSettings(default_seconds=timeout_seconds, longest_seconds=timeout_seconds),
            hedging,
            clock,
        )
        self._connections = Connections(catalog, router or default_router(catalog, self.strategy, breakers), policy)
        self._watch = EndpointWatch(self._connections)
        self._loop = OneLoop("LLMRouter")

    def explain(
        self, /, prompt: str, model: str | None = None, max_tokens: int | None = None, **options: Any
    ) -> Explanation:
        """Returns the route that `generate` would take now. Sends nothing, but strategies that take turns count it."""
        ask = self._ask_of(prompt, model or self.default_model, self._given(max_tokens, None, options))
        plan = self._connections.router.plan(self._facts(ask, stream=False), self._connections.clock())
        plan.ended(is_answered=False)
        return Explanation(ask.model, self.strategy, plan)

    async def close(self) -> None:
        """Closes every connection."""
        self._loop.close()
        await self._watch.close()
        await self._connections.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _answer(self, ask: Payload) -> Answer:
        return await self._call(ask, stream=False).answer()

    def _stream(self, ask: Payload) -> TextStream:
        """Returns a stream. After its first text it stays at the provider that began it."""
        return TextStream(lambda: self._call(ask, stream=True).begin(), choices=ask.choices)

    def _ask_of(self, prompt: str, model: str, fields: Mapping[str, Any]) -> Payload:
        """Returns the request for a prompt, as one user message: every provider accepts that."""
        return Payload.chat([{"role": "user", "content": prompt}], model, fields)

    def _call(self, ask: Payload, *, stream: bool) -> RoutedCall:
        self._loop.enter()
        self._watch.look()
        return RoutedCall(self._connections, ask, self._facts(ask, stream=stream))

    def _facts(self, ask: Payload, *, stream: bool) -> RequestFacts:
        return facts_of_chat(ask, self.strategy.value, stream=stream)


def _strategy(name: RoutingStrategy | str) -> RoutingStrategy:
    try:
        return RoutingStrategy(name)
    except ValueError:
        names = ", ".join(RoutingStrategy)
        raise ConfigurationError(f"strategy: expected one of {names}, got {name!r}", param="strategy") from None


def _first_model(catalog: Catalog) -> str:
    for model in catalog.models:
        return model
    raise ConfigurationError("providers: expected a catalog with a model, got none", param="providers")


def configured(environment: Mapping[str, str] | None = None) -> Catalog:
    """Returns the catalog of providers.yaml and models.yaml if they exist, else the endpoint of RUNPOD_*.

    environment: None is the process's. No other variable of it is read, because it belongs to the application.
    Raises ConfigurationError.
    """
    settings = CatalogSettings.from_environment(environment)
    if not _exists(settings.providers_path):
        return own_endpoint(ClientSettings.resolve(environment=environment))
    from vllm_service.catalog.load import load  # noqa: PLC0415  loads PyYAML, needless without a file

    return load(settings)


def default_router(catalog: Catalog, strategy: RoutingStrategy, breakers: Breakers) -> Router:
    """Returns the gateway's router for this process alone. It leaves out providers whose breaker is open."""
    settings = RouterSettings(default_strategy=strategy.value)
    return CostRouter(catalog, settings, breakers=breakers)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        reason = f"{path}: cannot be looked for ({error.strerror}). Change CONFIG_DIR or PROVIDERS_FILE"
        raise ConfigurationError(reason, param="PROVIDERS_FILE") from None
