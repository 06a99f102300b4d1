"""LLMRouter: own endpoint and hosted providers behind one object, in process, without a gateway."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vllm_service.client.asks import DEFAULT_MAX_TOKENS, Ask
from vllm_service.client.endpoint_watch import EndpointWatch
from vllm_service.client.generation import TextCalls
from vllm_service.client.per_loop import OneLoop
from vllm_service.client.places import Clock, Gatekeeper, LocalBreakers, Places, own_endpoint
from vllm_service.client.request_facts import facts_of_chat
from vllm_service.client.results import Answer
from vllm_service.client.routed_call import RoutedCall
from vllm_service.client.settings import ClientSettings
from vllm_service.client.strategies import RoutingStrategy
from vllm_service.client.streams import TextStream
from vllm_service.domain.requests import RequestFacts
from vllm_service.errors import ConfigurationError
from vllm_service.providers.configured import Catalog
from vllm_service.routing.breaker_settings import BreakerSettings
from vllm_service.routing.breakers import Breakers
from vllm_service.routing.fallback import RetrySettings
from vllm_service.routing.plan import Plan, Router
from vllm_service.routing.profiles import RouterSettings
from vllm_service.routing.router import CostRouter
from vllm_service.settings import CatalogSettings


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where a request would go: the places in the order in which they would be tried, and why."""

    model: str
    strategy: RoutingStrategy
    plan: Plan


class LLMRouter(TextCalls):
    """Sends each request where its strategy says, and on to the next place when one fails before it has answered.

    providers: what may be asked; by default what providers.yaml and models.yaml say, else the endpoint that RUNPOD_*
    names. default_model: one of its models; by default the first. router, breakers: by default ones of this process.
    gatekeeper: routing.shared_breakers.SharedBreakers over those breakers, to share them through Redis.
    Prompts are sent as one message of a user: every provider takes that. Close it, or use `async with`.
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
        gatekeeper: Gatekeeper | None = None,
        retries: RetrySettings | None = None,
        timeout_seconds: float = 600.0,
        clock: Clock = time.monotonic,
    ) -> None:
        self.strategy = RoutingStrategy(strategy)
        catalog = configured() if providers is None else providers
        super().__init__(default_model or next(iter(catalog.models)))
        local = LocalBreakers(breakers or Breakers(BreakerSettings()), clock)
        self._retries = retries or RetrySettings()
        self._places = Places(
            catalog,
            router or default_router(catalog, self.strategy, local),
            gatekeeper or local,
            timeout_seconds,
            clock,
        )
        self._watch = EndpointWatch(self._places)
        self._loop = OneLoop("LLMRouter")

    def explain(
        self, /, prompt: str, model: str | None = None, max_tokens: int = DEFAULT_MAX_TOKENS, **options: Any
    ) -> Explanation:
        """Where `generate` would send this now. Asks nobody; strategies that take turns count it as one."""
        ask = self._ask_of(prompt, model or self.default_model, {"max_tokens": max_tokens, **options})
        plan = self._places.router.plan(self._facts(ask, stream=False), self._places.clock())
        return Explanation(ask.model, self.strategy, plan)

    async def close(self) -> None:
        """Closes every connection."""
        self._loop.close()
        await self._watch.close()
        await self._places.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _answer(self, ask: Ask) -> Answer:
        return await self._call(ask, stream=False).answer()

    def _stream(self, ask: Ask) -> TextStream:
        """From its first text on it stays at the place that began it."""
        return TextStream(lambda: self._call(ask, stream=True).begin())

    def _ask_of(self, prompt: str, model: str, fields: Mapping[str, Any]) -> Ask:
        """As one message of a user: every provider takes that."""
        return Ask.chat([{"role": "user", "content": prompt}], model, fields)

    def _call(self, ask: Ask, *, stream: bool) -> RoutedCall:
        self._loop.enter()
        self._watch.look()
        return RoutedCall(self._places, ask, self._facts(ask, stream=stream), self._retries)

    def _facts(self, ask: Ask, *, stream: bool) -> RequestFacts:
        return facts_of_chat(ask, self.strategy.value, stream=stream)


def configured(environment: Mapping[str, str] | None = None) -> Catalog:
    """Returns what providers.yaml and models.yaml say, where there are any; else the endpoint of RUNPOD_*.

    environment: the process's, unless another is given. Nothing else in it is read: it belongs to the application.
    Raises ConfigurationError.
    """
    settings = CatalogSettings.from_environment(environment)
    if not _exists(settings.providers_path):
        return own_endpoint(ClientSettings.resolve(environment=environment))
    from vllm_service.providers.files import load  # noqa: PLC0415  reads YAML, which the client's extra lacks

    return load(settings)


def default_router(catalog: Catalog, strategy: RoutingStrategy, breakers: LocalBreakers) -> Router:
    """The gateway's, of this process alone, which leaves out places whose breaker is open."""
    settings = RouterSettings(default_strategy=strategy.value)
    return CostRouter(catalog, settings, may_try=breakers.allows)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        reason = f"{path}: cannot be looked for ({error.strerror}). Change CONFIG_DIR or PROVIDERS_FILE"
        raise ConfigurationError(reason, param="PROVIDERS_FILE") from None
