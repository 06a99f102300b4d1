"""The traffic: a slice of a trace, compressed and thinned, and prompts with the same numbers of tokens."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass

import numpy as np

from handler.settings import DEMO_MODEL_DIR
from vllm_service.simulation.trace import Trace


@dataclass(frozen=True)
class Cut:
    """A slice of a trace, and how it is made small enough for two cores."""

    begin_seconds: float = 150.0
    #: How many times as fast it is played.
    compression: float = 2.0
    #: Of so many requests one is kept.
    keep_every: int = 4
    #: How many times shorter the prompts are.
    prompt_divisor: float = 5.0
    #: The least and the most tokens: the demo model's context has 2,048.
    prompt_tokens: tuple[int, int] = (8, 1400)
    completion_tokens: tuple[int, int] = (2, 256)


def cut(trace: Trace, minutes: float, how: Cut) -> Trace:
    """Returns the slice, which begins at 0 and is at most `minutes` long."""
    arrival = (trace.arrival_seconds - how.begin_seconds) / how.compression
    chosen = np.flatnonzero((arrival >= 0.0) & (arrival < minutes * 60.0))[:: how.keep_every]
    prompts = np.clip(np.round(trace.prompt_tokens[chosen] / how.prompt_divisor), *how.prompt_tokens)
    return Trace(arrival[chosen], prompts, np.clip(trace.completion_tokens[chosen], *how.completion_tokens))


class Prompts:
    """Makes text of an exact number of tokens, both by the demo model's tokenizer and at four bytes a token.

    No two texts begin alike, so that no prefix is cached.
    """

    def __init__(self) -> None:
        tokenizer = json.loads((DEMO_MODEL_DIR / "tokenizer.json").read_text(encoding="utf-8"))
        words = (token[1:] for token in tokenizer["model"]["vocab"] if token.startswith("Ġ") and len(token) == 4)
        self._words = sorted(word for word in words if word.isascii() and word.isalpha())

    def of(self, tokens: int, number: int) -> str:
        """Returns words of three letters; each is one token, together with the blank before it."""
        generator = random.Random(number)  # noqa: S311  # repeatable, not secret
        return "".join(f" {word}" for word in generator.choices(self._words, k=tokens))
