"""What an LLMRouter sends through: a connection to each provider, the router, and the policy of attempts."""

from __future__ import annotations

from vllm_service.catalog.model import Catalog, Offer, Provider, ProviderKind, PublicModel
from vllm_service.client.connection import Connection
from vllm_service.client.settings import NO_KEY, ClientSettings
from vllm_service.domain.plan import Router
from vllm_service.resilience.policy import Clock, ResiliencePolicy


class Connections:
    """Connections are made when a provider is first asked, and kept until `close`."""

    def __init__(self, catalog: Catalog, router: Router, policy: ResiliencePolicy) -> None:
        self.catalog = catalog
        self.router = router
        self.policy = policy
        self.prices = {
            (offer.provider, offer.model): offer.price for model in catalog.models.values() for offer in model.offers
        }
        self._connections: dict[str, Connection] = {}

    @property
    def clock(self) -> Clock:
        """Seconds, monotonic: the policy's."""
        return self.policy.clock

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
        """A redirect is a failure, as in the gateway: the key is not sent elsewhere."""
        prices = self.prices.items()
        return Connection(
            provider=provider.name,
            endpoint=provider.name,
            base_url=provider.base_url,
            api_key=provider.api_key or NO_KEY,
            timeout_seconds=self.policy.deadlines.default_seconds,
            prices={model: price for (name, model), price in prices if name == provider.name and price},
            owner="LLMRouter",
            follow_redirects=False,
        )


def own_endpoint(settings: ClientSettings) -> Catalog:
    """The catalog of who has configured nothing but RUNPOD_*: one endpoint, one model."""
    provider = Provider(
        "runpod", ProviderKind.RUNPOD, settings.base_url, settings.api_key, control_url=settings.control_url
    )
    model = PublicModel(settings.default_model, (Offer(provider.name, settings.default_model),))
    return Catalog({provider.name: provider}, {model.name: model})
