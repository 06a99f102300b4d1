"""Rules that remove offers before cost decides: tags, region, context length, capabilities, a cap in dollars.

A caller's conditions travel in `RequestFacts.tags`: `region:eu` keeps data there, `needs:vision` names a capability
that the model must have, any other tag must be one of the provider's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from vllm_service.catalog.model import PublicModel
from vllm_service.domain.requests import RequestFacts
from vllm_service.errors import ContextTooLong, Forbidden, InvalidRequest, ModelUnavailable
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

    Raises ModelUnavailable naming the rule that left none, and Forbidden where a budget in dollars leaves none.
    """
    left = _priced(candidates, facts) if facts.needs_price else list(candidates)
    for rule, keeps in _rules(facts, expected_completion):
        left = [candidate for candidate in left if keeps(candidate)]
        if not left:
            raise ModelUnavailable(
                f"The rule {rule} leaves no provider of {facts.model}: relax it, or name another model.",
                details={"model": facts.model, "rule": rule, "fallback_available": False},
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


Rule = tuple[str, Callable[[Candidate], bool]]


def _rules(facts: RequestFacts, expected_completion: float) -> Iterator[Rule]:
    if facts.provider is not None:
        yield f"provider = {facts.provider}", lambda candidate: candidate.provider.name == facts.provider
    for tag in sorted(facts.tags):
        if tag.startswith(_REGION):
            yield tag, _in_region(tag[len(_REGION) :])
        elif not tag.startswith(_NEEDS):
            yield f"tag {tag}", _has_tag(tag)
    cap = facts.cap_picousd
    if cap is not None:
        yield f"cap of {cap / 1e12:.6f} USD", lambda candidate: _within(candidate, facts, expected_completion, cap)


def _in_region(region: str) -> Callable[[Candidate], bool]:
    return lambda candidate: candidate.provider.region == region


def _has_tag(tag: str) -> Callable[[Candidate], bool]:
    return lambda candidate: tag in candidate.provider.tags


def _within(candidate: Candidate, facts: RequestFacts, expected_completion: float, cap_picousd: int) -> bool:
    highest = highest_picousd(candidate, facts, expected_completion)
    return highest is not None and highest <= cap_picousd
