"""GET /v1/models, /models, /v1/models/{id}: the models, and for viewers their prices and their measured speed."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from vllm_service.api import schemas
from vllm_service.api.authentication import required_role
from vllm_service.api.dependencies import Dependencies
from vllm_service.catalog.model import APPLE_SILICON_TAG, Catalog, PublicModel
from vllm_service.domain.money import PICOUSD_PER_USD, to_usd
from vllm_service.domain.pricing import TokenPrice
from vllm_service.domain.roles import Permission, Role, may
from vllm_service.errors import ModelNotFound
from vllm_service.observability.tally import Tally

_UNKNOWN_PRICES = schemas.Prices(input=None, cached_input=None, output=None)


def models_router(dependencies: Dependencies) -> APIRouter:
    """Returns the router of the list and of one model by its name or alias."""
    router = APIRouter(tags=["models"])
    needed = Depends(required_role(dependencies.keys, Permission.CALL_MODELS))

    @router.get("/models")
    async def list_models(role: Role = needed) -> schemas.ModelList:
        """Returns all models in the order of their names."""
        catalog = dependencies.catalog()
        names = sorted({model.name for model in catalog.models.values()})
        return schemas.ModelList(data=[_described(dependencies, catalog.models[name], role) for name in names])

    @router.get("/models/{model:path}", responses={404: {"model": schemas.ErrorAnswer}})
    async def get_model(model: str, role: Role = needed) -> schemas.Model:
        """Returns one model; an alias gives the model that it stands for."""
        catalog = dependencies.catalog()
        found = catalog.models.get(model)
        if found is None:
            raise ModelNotFound(model, list(catalog.models))
        return _described(dependencies, found, role)

    return router


def is_on_apple_silicon(catalog: Catalog, model: PublicModel) -> bool:
    """Returns true if a provider of this model is tagged as running on Apple silicon."""
    return any(APPLE_SILICON_TAG in catalog.providers[offer.provider].tags for offer in model.offers)


def _described(dependencies: Dependencies, model: PublicModel, role: Role) -> schemas.Model:
    """Returns what a key of this role may see of a model.

    What the operator pays for it, and what was measured of all organisations' requests, is not for callers.
    """
    sees_figures = may(role, Permission.READ_FIGURES)
    measured = dependencies.measurements.numbers_of_last_hour(model.name) if sees_figures else Tally()
    priced_offers = model.offers if sees_figures else ()
    price = priced_offers[0].price if priced_offers else None
    cost = _usd_per_1k_tokens(price, measured)
    return schemas.Model(
        id=model.name,
        created=int(dependencies.started_at),
        owned_by=model.offers[0].provider if model.offers else "nobody",
        cost_per_1k_tokens=cost,
        cost_basis=None if cost is None else "expected" if price is None else "booked",
        openai_equivalent=model.baseline_model,
        performance=schemas.ModelPerformance(
            avg_latency_ms=measured.mean_latency_ms,
            tokens_per_second=measured.tokens_per_second,
            max_context_length=model.context_length,
            apple_silicon_optimized=is_on_apple_silicon(dependencies.catalog(), model),
        ),
        quality_metrics=schemas.QualityMetrics(),
        description=model.description,
        usd_per_million_tokens=_prices(price),
        providers=[offer.provider for offer in model.offers],
        offers=[
            schemas.ModelOffer(provider=offer.provider, model=offer.model, usd_per_million_tokens=_prices(offer.price))
            for offer in priced_offers
        ],
        aliases=sorted(model.aliases),
        capabilities=sorted(model.capabilities),
    )


def _prices(price: TokenPrice | None) -> schemas.Prices:
    if price is None:
        return _UNKNOWN_PRICES
    return schemas.Prices(
        input=price.input_usd_per_million,
        cached_input=price.cached_input_usd_per_million,
        output=price.output_usd_per_million,
    )


def _usd_per_1k_tokens(price: TokenPrice | None, measured: Tally) -> float | None:
    """Returns the price of 500 prompt and 500 generated tokens at the first offer, in US dollars.

    An own endpoint has no price by the token: the last hour's cost by token is returned, or None if any of it is
    unknown.
    """
    if price is not None:
        return to_usd(500 * (price.input_picousd + price.output_picousd))
    tokens = measured.prompt_tokens + measured.completion_tokens
    if not tokens or not measured.cost_picousd or measured.unpriced:
        return None
    return measured.cost_picousd * 1000 / tokens / PICOUSD_PER_USD
