"""Makes the router of a configuration: profiles of endpoints, and a strategy that suits every model's prices."""

from __future__ import annotations

from dataclasses import replace

from vllm_service.catalog.model import Catalog, Provider, ProviderKind, PublicModel
from vllm_service.errors import ConfigurationError, ConfigurationFaults
from vllm_service.routing.profiles import ORGANISATION_SHARE, EndpointProfile, RouterSettings
from vllm_service.routing.router import CostRouter
from vllm_service.routing.strategies import DEFAULT

#: The fields of EndpointProfile that are whole numbers; YAML's are read as floats.
_WHOLE = frozenset({"slots", "max_workers", "always_on_workers"})
#: How many offers a plan names at most.
_MOST_STEPS = 8
#: The strategy of a model none of whose prices is known: COST would have no candidate.
WITHOUT_PRICES = "QUALITY"


def make_router(
    catalog: Catalog, default_strategy: str = DEFAULT, organisation_share: float = ORGANISATION_SHARE
) -> CostRouter:
    """Makes the gateway's router. Raises ConfigurationError with all impossible endpoints.

    organisation_share: see RouterSettings.
    """
    settings = RouterSettings(
        profiles=profiles_of(catalog),
        default_strategy=default_strategy,
        max_steps=_MOST_STEPS,
        organisation_share=organisation_share,
    )
    known: dict[int, PublicModel] = {}
    for model in catalog.models.values():
        if id(model) not in known:
            known[id(model)] = _routable(catalog, model, default_strategy)
    models = {name: known[id(model)] for name, model in catalog.models.items()}
    router = CostRouter(Catalog(catalog.providers, models), settings)
    for demand in router.controllers.values():
        demand.load()  # now, because loading numpy would make requests wait
    return router


def _routable(catalog: Catalog, model: PublicModel, default_strategy: str) -> PublicModel:
    """Returns the model with a strategy that can route it: COST skips offers without a known price.

    A model that has no other offers keeps its configured order.
    """
    if (model.strategy or default_strategy).upper() != DEFAULT or any(_is_priced(catalog, model)):
        return model
    return replace(model, strategy=WITHOUT_PRICES)


def _is_priced(catalog: Catalog, model: PublicModel) -> list[bool]:
    return [
        catalog.providers[offer.provider].second_price is not None
        if catalog.providers[offer.provider].kind is ProviderKind.RUNPOD
        else offer.price is not None
        for offer in model.offers
    ]


def profiles_of(catalog: Catalog) -> dict[str, EndpointProfile]:
    """Returns the profile of each provider. Raises ConfigurationError with all impossible ones."""
    faults = ConfigurationFaults()
    profiles: dict[str, EndpointProfile] = {}
    for name, provider in catalog.providers.items():
        with faults:
            profiles[name] = profile_of(provider)
    faults.raise_all()
    return profiles


def profile_of(provider: Provider) -> EndpointProfile:
    """Returns the profile of one provider. Raises ConfigurationError for an impossible one."""
    given = {key: int(value) if key in _WHOLE else value for key, value in provider.expected}
    try:
        return EndpointProfile(**given)  # type: ignore[arg-type]
    except ValueError as error:
        raise ConfigurationError(f"providers.yaml: {provider.name}: expected: {error}") from None
