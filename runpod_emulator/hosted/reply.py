"""The answer to one request, independent of the API's form: choices, tokens, and their price."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from runpod_emulator.errors import BadRequest, ProviderError
from runpod_emulator.hosted.answers import Answer, answer, count_tokens, prompt_text, whole_number
from runpod_emulator.hosted.settings import HostedModel, HostedSettings

Json = dict[str, Any]
#: 2026-11-01. It is constant, so that an answer is a function of its request.
CREATED = 1_793_491_200


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer with all its choices."""

    #: The answer's id, in the response and on the bill.
    id: str
    model: HostedModel
    answers: tuple[Answer, ...]
    prompt_tokens: int
    #: A part of `prompt_tokens`.
    cached_tokens: int
    settings: HostedSettings
    #: The client requested usage, or the provider sends it always.
    sends_usage: bool

    @property
    def reasoning_tokens(self) -> int:
        """Returns the reasoning tokens of all choices: billed, generated before the text, never sent."""
        return self.model.reasoning_tokens * len(self.answers)

    @property
    def completion_tokens(self) -> int:
        """Returns the tokens of all choices, with reasoning."""
        return self.reasoning_tokens + sum(len(choice.pieces) for choice in self.answers)

    def usd(self, generated: int) -> Decimal:
        """Returns the price if `generated` tokens were generated."""
        return self.model.usd(self.prompt_tokens, self.cached_tokens, generated)

    def usage(self, generated: int | None = None) -> Json:
        """Returns the usage as chat and text completions report it; `generated`: the completion tokens so far."""
        completion = self.completion_tokens if generated is None else generated
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.prompt_tokens + completion,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": min(self.reasoning_tokens, completion)},
        }


def make_reply(body: Mapping[str, Any], settings: HostedSettings, model: HostedModel, reply_id: str) -> Reply:
    """Returns the reply to a request. Raises BadRequest, and ProviderError for a prompt that is too long."""
    prompt = prompt_text(body)
    choices = whole_number(body.get("n") or 1)
    if choices is None or not 1 <= choices <= 128:
        raise BadRequest("n: expected a whole number from 1 to 128")
    answers = tuple(answer(body, prompt, model, choice) for choice in range(choices))
    tokens = count_tokens(prompt)
    if tokens + max(len(choice.pieces) for choice in answers) > model.context_length:
        raise ProviderError(
            400,
            f"This model's maximum context length is {model.context_length} tokens; the request needs more.",
            "context_length_exceeded",
            param="messages",
        )
    options = body.get("stream_options") or {}
    asked = not body.get("stream") or bool(options.get("include_usage"))
    return Reply(
        id=reply_id,
        model=model,
        answers=answers,
        prompt_tokens=tokens,
        cached_tokens=int(tokens * settings.cached_share),
        settings=settings,
        sends_usage=(asked or settings.usage_unasked) and settings.usage_place != "nowhere",
    )
