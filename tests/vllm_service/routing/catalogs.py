"""Catalogs for tests: an own endpoint and hosted providers of known, and of unknown, prices."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from vllm_service.catalog.model import Catalog, Offer, Provider, ProviderKind, PublicModel
from vllm_service.domain.pricing import SecondPrice, TokenPrice
from vllm_service.domain.requests import RequestFacts
from vllm_service.routing.profiles import EndpointProfile, RouterSettings
from vllm_service.routing.router import CostRouter

CHEAP, DEAR = TokenPrice.per_million("0.10", "0.20"), TokenPrice.per_million("0.50", "1.00")


def catalog(**model: Any) -> Catalog:
    """`own` by the second, `dear` and `cheap` by the token, `secret` of an unknown price; one model with an alias."""
    providers = {
        "own": Provider(
            "own", ProviderKind.RUNPOD, "http://own/v1", second_price=SecondPrice.per_second("0.0003"), region="eu"
        ),
        "dear": Provider("dear", ProviderKind.HOSTED, "http://dear/v1", region="eu", tags=frozenset({"no-training"})),
        "cheap": Provider("cheap", ProviderKind.HOSTED, "http://cheap/v1", region="us"),
        "secret": Provider("secret", ProviderKind.HOSTED, "http://secret/v1", region="us"),
    }
    offers = (
        Offer("own", "org/m"),
        Offer("dear", "m-dear", DEAR, weight=3.0),
        Offer("cheap", "m-cheap", CHEAP),
        Offer("secret", "m-secret"),
    )
    served = PublicModel("m", offers, aliases=("alias",), **model)
    return Catalog(MappingProxyType(providers), MappingProxyType({"m": served, "alias": served}))


def router(warm: int = 0, settings: RouterSettings | None = None, **model: Any) -> CostRouter:
    """A router whose own endpoint has been seen with so many warm workers."""
    made = CostRouter(
        catalog(**model), settings or RouterSettings(profiles=MappingProxyType({"own": EndpointProfile()}), max_steps=4)
    )
    made.observe_health("own", {"workers": {"idle": warm}}, 0.0)
    return made


def facts(prompt_tokens: int = 1000, **others: Any) -> RequestFacts:
    """A streamed chat request for the model: only those show when the first token came."""
    return RequestFacts(others.pop("model", "m"), "chat.completions", prompt_tokens, **{"stream": True} | others)
