"""The marginal cost of a request at each offer, in whole pico-dollars."""

from __future__ import annotations

from vllm_service.domain.requests import RequestFacts
from vllm_service.routing.strategies import Candidate

_PICOUSD = 1e12
#: Without a bound an answer may be this many times as long as expected (docs/routing.md, the cap in dollars).
_UNBOUNDED_ANSWER = 4


def own_picousd(candidate: Candidate, prompt_tokens: int, completion_tokens: float) -> int:
    """Returns what the request displaces at an own endpoint: seconds of a full worker, times the price of a second.

    A free slot of a warm worker costs less than that. A cold worker costs its start and its idle tail besides; whether
    these pay is decided over many requests, by demand/target.py.
    """
    endpoint = candidate.endpoint
    assert endpoint is not None
    return int(endpoint.work_seconds(prompt_tokens, completion_tokens) * endpoint.usd_per_second * _PICOUSD)


def marginal_picousd(candidate: Candidate, facts: RequestFacts, completion_tokens: int, now: float) -> int | None:
    """Returns the expected cost, by work or by tokens, less what is expected to be cached there.

    None where the price is unknown: an unknown price is never taken for a low one.
    """
    if not candidate.is_priced:
        return None
    prompt = facts.prompt_tokens
    if candidate.endpoint is not None:
        return own_picousd(candidate, prompt - candidate.cached_tokens(facts, now), completion_tokens)
    picousd = prompt * candidate.input_picousd + completion_tokens * candidate.output_picousd
    if candidate.discount_picousd:
        picousd -= (
            candidate.prompt_cache.cached_tokens(candidate.prefix_of(facts), prompt, facts.organisation, now)
            * candidate.discount_picousd
        )
    return picousd


def highest_picousd(candidate: Candidate, facts: RequestFacts, expected_completion: float) -> int | None:
    """Returns the highest cost: nothing cached, and the longest answer. None where the price is unknown.

    An answer that neither the caller nor the model's context bounds is taken for four times as long as expected.
    """
    if not candidate.is_priced:
        return None
    longest = facts.max_tokens
    if longest is None:
        longest = facts.choices * (int(_UNBOUNDED_ANSWER * expected_completion) + 1)
    if candidate.endpoint is not None:
        return own_picousd(candidate, facts.prompt_tokens, longest)
    return facts.prompt_tokens * candidate.input_picousd + longest * candidate.output_picousd
