"""The traffic: a slice of a trace, compressed and thinned, and prompts of as many tokens as its requests had."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass

import numpy as np

from handler.settings import DEMO_MODEL_DIR
from vllm_service.simulation.trace import Trace


@dataclass(frozen=True)
class Cut:
    """Which piece of a trace, and how it is made small enough for two cores.

    It begins `begin_seconds` into the trace and runs `compression` times as fast; of its requests every `keep_every`th
    stays. Prompts are `prompt_divisor` times shorter, and lengths stay within what the demo model can hold.
    """

    begin_seconds: float = 150.0
    compression: float = 2.0
    keep_every: int = 4
    prompt_divisor: float = 5.0
    prompt_tokens: tuple[int, int] = (8, 1400)
    completion_tokens: tuple[int, int] = (2, 256)


def cut(trace: Trace, minutes: float, how: Cut) -> Trace:
    """That piece, from 0 to at most so many minutes."""
    arrival = (trace.arrival_seconds - how.begin_seconds) / how.compression
    chosen = np.flatnonzero((arrival >= 0.0) & (arrival < minutes * 60.0))[:: how.keep_every]
    prompts = np.clip(np.round(trace.prompt_tokens[chosen] / how.prompt_divisor), *how.prompt_tokens)
    return Trace(arrival[chosen], prompts, np.clip(trace.completion_tokens[chosen], *how.completion_tokens))


class Prompts:
    """Text of exactly so many tokens, for the demo model's tokenizer and for hosted providers that count four bytes.

    No two begin alike, so that no prefix is cached.
    """

    def __init__(self) -> None:
        tokenizer = json.loads((DEMO_MODEL_DIR / "tokenizer.json").read_text(encoding="utf-8"))
        words = (token[1:] for token in tokenizer["model"]["vocab"] if token.startswith("Ġ") and len(token) == 4)
        self._words = sorted(word for word in words if word.isascii() and word.isalpha())

    def of(self, tokens: int, number: int) -> str:
        """Words of three letters, a token each with the blank before them."""
        draw = random.Random(number)  # noqa: S311  # repeatable, not secret
        return "".join(f" {word}" for word in draw.choices(self._words, k=tokens))
