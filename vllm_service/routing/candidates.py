"""A place that serves a model, with everything that was learned about it: what strategies choose between."""

from __future__ import annotations

from vllm_service.catalog.model import Offer, Provider, ProviderKind
from vllm_service.domain.requests import RequestFacts
from vllm_service.routing.capacity import Endpoint
from vllm_service.routing.estimates import Mean
from vllm_service.routing.prompt_cache import PromptCache

_GUESSED_FIRST_TOKEN_SECONDS, _GUESSED_TOKEN_SECONDS = 0.6, 0.015


class Candidate:
    """One offer. Prices in pico-dollars per token; `endpoint` is set for a per-second one.

    is_priced: its marginal cost can be told; cost strategies leave the others alone. discount_picousd: on a cached
    prompt token. late_until: it asked to be left alone until then.
    """

    __slots__ = (
        "discount_picousd", "endpoint", "first_token_seconds", "has_plain_price",
        "in_flight", "input_picousd", "is_priced", "late_until", "model", "name", "offer", "output_picousd", "position",
        "prompt_cache", "provider", "token_seconds", "weight",
    )  # fmt: skip

    def __init__(self, provider: Provider, offer: Offer, endpoint: Endpoint | None, position: int) -> None:
        self.provider, self.offer, self.endpoint, self.position = provider, offer, endpoint, position
        self.name, self.model = provider.name, offer.model
        price = offer.price
        by_second = provider.kind is ProviderKind.RUNPOD and provider.second_price is not None
        self.is_priced = by_second if endpoint is not None else price is not None
        self.input_picousd = price.input_picousd if price else 0
        self.output_picousd = price.output_picousd if price else 0
        cached = price.cached_input_picousd if price else None
        self.discount_picousd = 0 if cached is None else self.input_picousd - cached
        self.has_plain_price = endpoint is None and price is not None and not self.discount_picousd
        self.weight = offer.weight
        self.in_flight = 0
        self.late_until = 0.0
        self.prompt_cache = PromptCache()
        self.first_token_seconds = Mean(_GUESSED_FIRST_TOKEN_SECONDS)
        self.token_seconds = Mean(_GUESSED_TOKEN_SECONDS)

    def follows(self, prefix: int, now: float) -> bool:
        """Whether a prompt that begins so comes after one that this place has read lately.

        Of an endpoint only where the worker that has read it is the only one: nobody knows which one gets a job.
        """
        endpoint = self.endpoint
        if endpoint is None:
            return self.prompt_cache.has_read(prefix, now)
        return endpoint.serving == 1 and self.prompt_cache.has_read(prefix, now, endpoint.serving_since)

    def cached_tokens(self, facts: RequestFacts, now: float) -> int:
        """Of an endpoint: prompt tokens that its worker is expected to have cached; 0 unless such a prompt was read."""
        if not facts.prefix or not self.follows(facts.prefix, now):
            return 0
        return self.prompt_cache.cached_tokens(facts, now)

    def expected_seconds(self, facts: RequestFacts, completion_tokens: float, now: float) -> float:
        """To the end of the answer, as this place has been lately; infinite for an endpoint with no worker."""
        endpoint = self.endpoint
        if endpoint is None:
            return self.first_token_seconds.value + completion_tokens * self.token_seconds.value
        batch = (endpoint.in_flight + 1.0) / max(1, endpoint.serving)
        unread = facts.prompt_tokens - self.cached_tokens(facts, now)
        return endpoint.first_token_seconds(unread, now) + completion_tokens * endpoint.token_seconds.at(batch)
