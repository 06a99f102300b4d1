"""Ensembles: several models answer one prompt, and a replaceable scorer chooses the best answer."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence

from vllm_service.client.boundary import ours
from vllm_service.client.payload import Payload
from vllm_service.client.results import Answer, Candidate, Ensemble
from vllm_service.errors import InvalidRequest

#: Gets the prompt and the answers, and returns a score for each; higher is better. It may be async, to use a model.
Scorer = Callable[[str, Sequence[Answer]], Sequence[float] | Awaitable[Sequence[float]]]

WORD = re.compile(r"\w+")


async def answer_by_each(
    prompt: str, asks: Sequence[Payload], answer: Callable[[Payload], Awaitable[Answer]], scorer: Scorer
) -> Ensemble:
    """Sends all requests at once, and returns the answers with the best one.

    A model that fails is a candidate without an answer. If all fail, the first one's error is raised.
    """
    if not asks:
        raise InvalidRequest("models: expected at least one", param="models")
    given = await asyncio.gather(*(_candidate(ask, answer) for ask in asks))
    answers = [candidate.answer for candidate in given if candidate.answer is not None]
    if not answers:
        raise next(candidate.error for candidate in given if candidate.error is not None)
    scores = await _scores(scorer, prompt, answers)
    best = max(range(len(answers)), key=scores.__getitem__)
    remaining = iter(scores)
    candidates = tuple(
        Candidate(one.model, one.answer, one.error, None if one.answer is None else next(remaining)) for one in given
    )
    return Ensemble(answers[best], candidates)


async def _scores(scorer: Scorer, prompt: str, answers: Sequence[Answer]) -> list[float]:
    """Returns the scorer's scores. Raises InvalidRequest for anything else than a number for each answer."""
    scored = scorer(prompt, answers)
    given = await scored if inspect.isawaitable(scored) else scored
    scores = list(given) if isinstance(given, Iterable) else []
    if len(scores) != len(answers):
        raise InvalidRequest(f"scorer: expected {len(answers)} scores, got {len(scores)}", param="scorer")
    if not all(isinstance(score, int | float) and score == score for score in scores):  # noqa: PLR0124  NaN is not itself
        raise InvalidRequest("scorer: expected numbers", param="scorer")
    return scores


def consensus(prompt: str, answers: Sequence[Answer]) -> list[float]:
    """Returns how well each answer agrees with the others: the mean F1 of their words, 0 for a single answer.

    It is minimum Bayes risk over the candidates (Kumar and Byrne, 2004) with unigram F1 as the gain, so it needs no
    model.
    """
    words = [Counter(WORD.findall(answer.text.casefold())) for answer in answers]
    return [sum(_f1(own, other) for other in words if other is not own) / max(1, len(words) - 1) for own in words]


def _f1(first: Counter[str], second: Counter[str]) -> float:
    total = first.total() + second.total()
    return 2 * (first & second).total() / total if total else 1.0


async def _candidate(ask: Payload, answer: Callable[[Payload], Awaitable[Answer]]) -> Candidate:
    try:
        return Candidate(ask.model, answer=await answer(ask))
    except Exception as error:  # one model must not cost the other answers
        return Candidate(ask.model, error=ours(error, "the request"))
