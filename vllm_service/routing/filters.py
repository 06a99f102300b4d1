"""Rules that remove offers before cost decides: tags, region, context length, capabilities, a cap in dollars.

A caller's conditions travel in `RequestFacts.tags`: `region:eu` keeps data there, `needs:vision` names a capability
that the model must have, any other tag must be one of the provider's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from decimal import Decimal
from typing import NamedTuple

from vllm_service.catalog.model import PublicModel
from vllm_service.domain.money import PICOUSD_PER_USD
from vllm_service.domain.requests import RequestFacts
from vllm_service.errors import ContextTooLong, Forbidden, InvalidRequest, ModelUnavailable, ServiceError
from vllm_service.routing.cost import highest_picousd
from vllm_service.routing.strategies import Candidate

_REGION, _NEEDS = "region:", "needs:"


def check_model(model: PublicModel, facts: RequestFacts) -> None:
    """Raises ContextTooLong, or InvalidRequest for a capability that the model lacks."""
    if model.context_length is not None and facts.prompt_tokens > model.context_length:
        raise ContextTooLong(
            f"About {facts.prompt_tokens} prompt tokens do not fit the context length of {model.name}, "
            f"{model.context_length} tokens: shorten the messages, or name a model with a longer context.",
            param="messages",
            details={"prompt_tokens": facts.prompt_tokens, "context_length": model.context_length},
        )
    lacking = sorted({tag[len(_NEEDS) :] for tag in facts.tags if tag.startswith(_NEEDS)} - model.capabilities)
    if lacking:
        raise InvalidRequest(
            f"The model {model.name} lacks the capabilities {', '.join(lacking)}, which a needs: tag requires: "
            "name another model, or drop the tag.",
            param="model",
        )


def allowed(candidates: Sequence[Candidate], facts: RequestFacts, expected_completion: float) -> list[Candidate]:
    """Returns the offers that every rule lets through.

    Raises InvalidRequest naming the rule that left none, and what it could be instead: every rule comes from the
    caller, so no provider's state explains it and no retry mends it. Raises Forbidden where a budget in dollars leaves
    none.
    """
    left = _priced(candidates, facts) if facts.needs_price else list(candidates)
    for rule in _rules(facts, expected_completion):
        before = left
        left = [candidate for candidate in before if rule.keeps(candidate)]
        if not left:
            raise InvalidRequest(
                f"{rule.header}: {rule.condition} leaves no provider of {facts.model}. {rule.instead(before)}",
                param=rule.header,
                details={"model": facts.model, "rule": rule.condition},
            )
    return left


def startable(candidates: Sequence[Candidate], facts: RequestFacts, switched_off: Collection[str]) -> list[Candidate]:
    """Returns the offers without those of endpoints that may have no worker, where a request would wait for nothing.

    Raises ModelUnavailable where none is left.
    """
    left = [candidate for candidate in candidates if candidate.name not in switched_off]
    if candidates and not left:
        raise ModelUnavailable(
            f"No worker of {facts.model} can start: RunPod has switched its endpoint off, as it does after "
            "days without a request. The gateway's operator raises its greatest number of workers; /health says how.",
            details={"model": facts.model, "fallback_available": False},
            retry_after_seconds=60,
        )
    return left


def _priced(candidates: Sequence[Candidate], facts: RequestFacts) -> list[Candidate]:
    left = [candidate for candidate in candidates if candidate.is_priced]
    if not left:
        raise Forbidden(
            f"The price of {facts.model} is not known, so this organisation's budget in dollars could not hold: name "
            "another model, or set the price in providers.yaml. With UNPRICED_OFFERS=estimate or allow it is served.",
            param="model",
        )
    return left


def unpriced(facts: RequestFacts) -> ServiceError:
    """Returns the error for a strategy by price where no price is known.

    It is the caller's, where the caller has chosen the strategy or the providers.
    """
    what = f"No provider of {facts.model} that may answer has a known price, which the strategy needs"
    if facts.strategy is None and facts.provider is None and not facts.tags:
        return ModelUnavailable(
            f"{what}: set prices in models.yaml, or another strategy.",
            details={"model": facts.model, "fallback_available": True},
        )
    return InvalidRequest(
        f"{what}: set x-route-strategy to one that needs none, such as QUALITY, or drop what excludes the others.",
        param="x-route-strategy" if facts.strategy else "x-route-provider" if facts.provider else "x-route-tags",
        details={"model": facts.model},
    )


class Rule(NamedTuple):
    """A condition of the caller's."""

    #: The header that set it.
    header: str
    #: The condition, as the error names it.
    condition: str
    keeps: Callable[[Candidate], bool]
    #: Returns what the caller can do, from the candidates that the rules before have left.
    instead: Callable[[Sequence[Candidate]], str]


def _rules(facts: RequestFacts, expected_completion: float) -> Iterator[Rule]:
    if facts.provider is not None:
        yield Rule("x-route-provider", repr(facts.provider), _is_named(facts.provider), _other_providers)
    for tag in sorted(facts.tags):
        if tag.startswith(_REGION):
            yield Rule("x-route-tags", tag, _in_region(tag[len(_REGION) :]), _other_regions)
        elif not tag.startswith(_NEEDS):
            yield Rule("x-route-tags", f"the tag {tag}", _has_tag(tag), _other_tags)
    cap = facts.cap_picousd
    if cap is not None:
        highest = _highest(facts, expected_completion)
        yield Rule("x-max-cost-usd", f"a cap of {_usd(cap)} USD", _within(highest, cap), _higher_cap(highest))


def _is_named(provider: str) -> Callable[[Candidate], bool]:
    return lambda candidate: candidate.provider.name == provider


def _in_region(region: str) -> Callable[[Candidate], bool]:
    return lambda candidate: candidate.provider.region == region


def _has_tag(tag: str) -> Callable[[Candidate], bool]:
    return lambda candidate: tag in candidate.provider.tags


#: Returns the most that a request may cost at an offer, in pico-dollars; None if that is unknown.
Highest = Callable[[Candidate], int | None]


def _highest(facts: RequestFacts, expected_completion: float) -> Highest:
    return lambda candidate: highest_picousd(candidate, facts, expected_completion)


def _within(highest: Highest, cap_picousd: int) -> Callable[[Candidate], bool]:
    def keeps(candidate: Candidate) -> bool:
        cost = highest(candidate)
        return cost is not None and cost <= cap_picousd

    return keeps


def _other_providers(left: Sequence[Candidate]) -> str:
    return f"It has: {_listed(candidate.name for candidate in left)}."


def _other_regions(left: Sequence[Candidate]) -> str:
    return f"Regions of its providers: {_listed(candidate.provider.region for candidate in left)}."


def _other_tags(left: Sequence[Candidate]) -> str:
    return f"Tags of its providers: {_listed(tag for candidate in left for tag in candidate.provider.tags)}."


def _higher_cap(highest: Highest) -> Callable[[Sequence[Candidate]], str]:
    def instead(left: Sequence[Candidate]) -> str:
        known = [cost for candidate in left if (cost := highest(candidate)) is not None]
        if not known:
            return "None of them has a known price: drop the header, or set prices in models.yaml."
        least = _usd(min(known))
        return f"The cheapest may cost up to {least} USD: raise the cap, lower max_tokens or shorten the prompt."

    return instead


def _usd(picousd: int) -> str:
    """Returns an amount exactly, without an exponent and without zeros at its end."""
    return f"{Decimal(picousd) / PICOUSD_PER_USD:.12f}".rstrip("0").removesuffix(".")


def _listed(names: Iterable[str | None]) -> str:
    return ", ".join(sorted({name for name in names if name})) or "none is configured"
