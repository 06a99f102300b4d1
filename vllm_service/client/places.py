"""The places that an LLMRouter may ask: a connection to each provider, the router, and the breakers before them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from vllm_service.client.connection import Connection
from vllm_service.client.settings import NO_KEY, ClientSettings
from vllm_service.providers.configured import Catalog, Offer, Provider, ProviderKind, PublicModel
from vllm_service.routing.breakers import Breakers
from vllm_service.routing.circuit_breaker import Admission
from vllm_service.routing.plan import Router, Step

Clock = Callable[[], float]


class Gatekeeper(Protocol):
    """Who lets requests by: LocalBreakers, or routing.shared_breakers.SharedBreakers to share them through Redis."""

    async def admit(self, step: Step) -> Admission | None:
        """Leave to send a request to this place, or None. Every admission ends in one of the calls below."""
        ...

    def answers(self, step: Step, admission: Admission) -> None:
        """The first byte of content has come."""
        ...

    def succeeded(self, step: Step, admission: Admission) -> None:
        """The answer came, whole."""
        ...

    def failed(self, step: Step, admission: Admission, status: int, retry_after: float | None) -> None:
        """No answer (status 0), or one with this status."""
        ...

    def cancelled(self, step: Step, admission: Admission) -> None:
        """The request came to nothing that tells anything of the place."""
        ...


class LocalBreakers:
    """The breakers of this process alone."""

    def __init__(self, breakers: Breakers, clock: Clock) -> None:
        self.breakers = breakers
        self._clock = clock

    def allows(self, provider: str, model: str, now_seconds: float) -> bool:
        """Whether a request would be let by, for the router's plans; takes nothing."""
        return self.breakers.of(provider, model).allows(now_seconds)

    async def admit(self, step: Step) -> Admission | None:
        """See Gatekeeper."""
        return self.breakers.admit(step, self._clock())

    def answers(self, step: Step, admission: Admission) -> None:
        """See Gatekeeper."""
        self.breakers.of(step.provider, step.model).answers(admission, self._clock())

    def succeeded(self, step: Step, admission: Admission) -> None:
        """See Gatekeeper."""
        self.breakers.of(step.provider, step.model).succeeded(admission, self._clock())

    def failed(self, step: Step, admission: Admission, status: int, retry_after: float | None) -> None:
        """See Gatekeeper."""
        self.breakers.of(step.provider, step.model).failed(admission, status, retry_after, self._clock())

    def cancelled(self, step: Step, admission: Admission) -> None:
        """See Gatekeeper."""
        self.breakers.of(step.provider, step.model).cancelled(admission)


class Places:
    """Connections are made when a provider is first asked, and kept until `close`."""

    def __init__(
        self, catalog: Catalog, router: Router, gatekeeper: Gatekeeper, timeout_seconds: float, clock: Clock
    ) -> None:
        self.catalog = catalog
        self.router = router
        self.gatekeeper = gatekeeper
        self.timeout_seconds = timeout_seconds
        self.clock = clock
        self._connections: dict[str, Connection] = {}

    def connection(self, provider: str) -> Connection:
        """To a provider of the catalog."""
        if provider not in self._connections:
            self._connections[provider] = self._connect(self.catalog.providers[provider])
        return self._connections[provider]

    async def close(self) -> None:
        """Closes every connection."""
        for connection in self._connections.values():
            await connection.close()

    def _connect(self, provider: Provider) -> Connection:
        offers = [offer for model in self.catalog.models.values() for offer in model.offers]
        return Connection(
            provider=provider.name,
            endpoint=provider.name,
            base_url=provider.base_url,
            api_key=provider.api_key or NO_KEY,
            timeout_seconds=self.timeout_seconds,
            owner="LLMRouter",
            prices={offer.model: offer.price for offer in offers if offer.provider == provider.name and offer.price},
        )


def own_endpoint(settings: ClientSettings) -> Catalog:
    """The catalog of who has configured nothing but RUNPOD_*: one endpoint, one model."""
    provider = Provider(
        "runpod", ProviderKind.RUNPOD, settings.base_url, settings.api_key, control_url=settings.control_url
    )
    model = PublicModel(settings.default_model, (Offer(provider.name, settings.default_model),))
    return Catalog({provider.name: provider}, {model.name: model})
