"""The tokens of one request, as its provider counted them, or as we did."""

from __future__ import annotations

import msgspec


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens. `cached` are part of `prompt`, `reasoning` part of `completion`, as OpenAI counts them.

    estimated: the provider sent no usage; these were counted with a tokenizer, or from the length of the text.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False

    @property
    def total_tokens(self) -> int:
        """Prompt and completion."""
        return self.prompt_tokens + self.completion_tokens
