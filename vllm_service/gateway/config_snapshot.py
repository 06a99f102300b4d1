"""What the gateway looks up for every request, worked out once for each configuration."""

from __future__ import annotations

from vllm_service.catalog.model import APPLE_SILICON_TAG, Catalog, PublicModel
from vllm_service.catalog.tasks import PREFIX
from vllm_service.domain.plan import Router
from vllm_service.domain.pricing import TokenPrice
from vllm_service.errors import ModelNotFound


class ServedModel:
    """A public model, the price at each of its providers, and the highest of them: what a request can cost at most."""

    __slots__ = ("baseline", "dearest_input", "dearest_output", "model", "name", "prices", "tokenizer")

    def __init__(self, model: PublicModel) -> None:
        self.model = model
        self.name = model.name
        self.baseline = model.baseline_price
        self.tokenizer = model.tokenizer
        self.prices: dict[tuple[str, str], TokenPrice | None] = {
            (offer.provider, offer.model): offer.price for offer in model.offers
        }
        known = [offer.price for offer in model.offers if offer.price is not None]
        self.dearest_input = max((price.input_picousd for price in known), default=0)
        self.dearest_output = max((price.output_picousd for price in known), default=0)


class ConfigSnapshot:
    """One configuration: replaced as a whole on reload, so a request sees the old one or the new one, never both."""

    def __init__(self, catalog: Catalog, router: Router) -> None:
        self.catalog = catalog
        self.router = router
        self.on_apple_silicon = frozenset(
            name for name, provider in catalog.providers.items() if APPLE_SILICON_TAG in provider.tags
        )
        #: By name and by alias.
        self.models = {name: ServedModel(model) for name, model in catalog.models.items()}

    def not_found(self, name: str) -> ModelNotFound:
        """Returns the error for a name that is none of `models`; it names those that there are."""
        tasks = {known for known in self.models if known.startswith(PREFIX)}
        return ModelNotFound(name[:256], sorted({model.name for model in self.models.values()} | tasks))


class CurrentConfig:
    """The configuration in use. A reload replaces the snapshot; requests under way keep theirs."""

    __slots__ = ("snapshot",)

    def __init__(self, snapshot: ConfigSnapshot) -> None:
        self.snapshot = snapshot

    def catalog(self) -> Catalog:
        """Returns the catalog in use."""
        return self.snapshot.catalog

    def catalog_and_router(self) -> tuple[Catalog, Router]:
        """Returns both of one snapshot."""
        snapshot = self.snapshot
        return snapshot.catalog, snapshot.router
