"""The configuration in the form in which requests look it up, derived once for each reload."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any
from urllib.parse import urlsplit

from vllm_service.catalog.model import APPLE_SILICON_TAG, Catalog, Provider, PublicModel
from vllm_service.catalog.tasks import PREFIX
from vllm_service.domain.plan import Router
from vllm_service.domain.pricing import TokenPrice, UnpricedOffers, dearest
from vllm_service.domain.stream_options import StreamOptionsSupport
from vllm_service.errors import ModelNotFound, ServiceError
from vllm_service.gateway.request_body import CacheSalts
from vllm_service.routing.worker_pins import WorkerPins


class ServedModel:
    """A public model with its prices. A reservation takes the highest price: no provider has been chosen then.

    paid_by_second: names of providers with a price of a second. unpriced: the treatment of other unpriced offers.
    """

    __slots__ = (
        "baseline",
        "dearest_input",
        "dearest_output",
        "estimated",
        "model",
        "name",
        "prices",
        "refuses_unpriced",
        "tokenizer",
    )

    def __init__(
        self,
        model: PublicModel,
        paid_by_second: Collection[str] = (),
        unpriced: UnpricedOffers = UnpricedOffers.REFUSE,
        dearest_of_all: TokenPrice | None = None,
    ) -> None:
        self.model = model
        self.name = model.name
        self.baseline = model.baseline_price
        self.tokenizer = model.tokenizer
        #: The price of each offer, by provider and the provider's name of the model; None where it has none.
        self.prices: dict[tuple[str, str], TokenPrice | None] = {
            (offer.provider, offer.model): offer.price for offer in model.offers
        }
        highest = dearest(self.prices.values())
        if unpriced is UnpricedOffers.ESTIMATE:
            highest = highest or dearest_of_all
        unknown = [name for name, price in self.prices.items() if price is None and name[0] not in paid_by_second]
        #: The offers whose price is another's, because their own is not known.
        self.estimated: frozenset[tuple[str, str]] = frozenset()
        if unpriced is UnpricedOffers.ESTIMATE and highest is not None:
            self.estimated = frozenset(unknown)
            self.prices |= dict.fromkeys(unknown, highest)
        #: Whether a budget in dollars keeps requests from some of its offers.
        self.refuses_unpriced = unpriced is not UnpricedOffers.ALLOW and len(unknown) > len(self.estimated)
        #: Pico-dollars for one token of the prompt and of the answer; 0 if no offer has a price.
        self.dearest_input = 0 if highest is None else highest.input_picousd
        self.dearest_output = 0 if highest is None else highest.output_picousd


class ConfigSnapshot:
    """One configuration. A reload replaces it as a whole, so a request uses the old one or the new one, never both."""

    def __init__(
        self,
        catalog: Catalog,
        router: Router,
        unpriced: UnpricedOffers = UnpricedOffers.REFUSE,
        salts: CacheSalts | None = None,
        pins: WorkerPins | None = None,
    ) -> None:
        self.catalog = catalog
        self.router = router
        #: A setting of the process: a reload keeps it.
        self.unpriced = unpriced
        #: Of the installation, so a reload keeps them too.
        self.salts = CacheSalts() if salts is None else salts
        #: Of the process, so a reload keeps them too.
        self.pins = WorkerPins() if pins is None else pins
        #: The names of the providers with this tag.
        self.on_apple_silicon = frozenset(
            name for name, provider in catalog.providers.items() if APPLE_SILICON_TAG in provider.tags
        )
        #: What each provider makes of `stream_options`.
        self.stream_options = {
            name: StreamOptionsSupport.configured(provider.stream_options)
            for name, provider in catalog.providers.items()
        }
        self._private = _private_texts(catalog.providers.values())
        paid_by_second = {name for name, provider in catalog.providers.items() if provider.second_price is not None}
        highest = dearest(offer.price for model in catalog.models.values() for offer in model.offers)
        #: The public models by name, by alias and by task.
        self.models = {
            name: ServedModel(model, paid_by_second, unpriced, highest) for name, model in catalog.models.items()
        }

    def conceal(self, error: ServiceError) -> None:
        """Takes keys and addresses of providers out of an error for a caller: a provider's words may repeat them."""
        error.message = self._private.sub(CONCEALED, error.message)
        error.param = None if error.param is None else self._private.sub(CONCEALED, error.param)
        error.details = self._concealed(error.details)

    def _concealed(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._private.sub(CONCEALED, value)
        if isinstance(value, dict):
            return {name: self._concealed(member) for name, member in value.items()}
        return [self._concealed(member) for member in value] if isinstance(value, list | tuple) else value

    def not_found(self, name: str) -> ModelNotFound:
        """Returns the error for a name that is not in `models`; it lists the names that are."""
        tasks = {known for known in self.models if known.startswith(PREFIX)}
        return ModelNotFound(name[:256], sorted({model.name for model in self.models.values()} | tasks))


#: Stands in an error for a key or an address of a provider.
CONCEALED = "[provider]"
#: A shorter text that stands where a key should is none, such as vLLM's EMPTY, and may be a word of any message.
_SHORTEST_KEY = 8


def _private_texts(providers: Collection[Provider]) -> re.Pattern[str]:
    """Returns a pattern of the providers' keys and addresses, the longest first; of nothing where there are none."""
    texts = {text for provider in providers for text in _private_texts_of(provider)}
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)", re.IGNORECASE)


def _private_texts_of(provider: Provider) -> Iterator[str]:
    if provider.api_key is not None and len(provider.api_key) >= _SHORTEST_KEY:
        yield provider.api_key
    managed = None if provider.management is None else provider.management.url
    for url in (provider.base_url, provider.control_url, managed):
        if url is not None:
            yield from _private_parts(url)


def _private_parts(url: str) -> Iterator[str]:
    yield url
    try:
        parts = urlsplit(url)
    except ValueError:  # no request reaches it: a provider from elsewhere than the catalog
        return
    yield f"{parts.scheme}://{parts.netloc}"
    # A name without dot or port, of a container perhaps, may be a word of any message.
    yield from (text for text in (parts.netloc, parts.hostname or "") if "." in text or ":" in text)


class CurrentConfig:
    """The configuration in use. A reload replaces the snapshot; requests under way keep theirs."""

    __slots__ = ("snapshot",)

    def __init__(self, snapshot: ConfigSnapshot) -> None:
        self.snapshot = snapshot

    def catalog(self) -> Catalog:
        """Returns the catalog in use."""
        return self.snapshot.catalog

    def catalog_and_router(self) -> tuple[Catalog, Router]:
        """Returns the catalog and the router of the same snapshot."""
        snapshot = self.snapshot
        return snapshot.catalog, snapshot.router
