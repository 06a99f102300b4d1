"""The tokens of one request: as counted, and as estimated before any tokenizer runs."""

from __future__ import annotations

import re
from binascii import crc32

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


# About as many bytes of JSON make a token: English text has 4.5 characters to one, code and other scripts fewer.
BYTES_PER_TOKEN = 4
# What is reserved for an answer whose length the caller did not bound.
ASSUMED_COMPLETION_TOKENS = 1024
TOKENS_PER_IMAGE = 800
PREFIX_BYTES = 1024  # that two prompts have in common at least, for a provider to have something cached
MOST_TOKENS = 10**9  # of one answer, whatever a caller writes; the document says so too
_INLINE_DATA = re.compile(rb';base64,[^"]*')


def estimated_prompt_tokens(body: bytes) -> int:
    """Tokens by the length of the request's JSON; images inlined as base64 count as images, not as text."""
    if len(body) > 8192 and b";base64," in body:
        text, images = _INLINE_DATA.subn(b"", body)
        return len(text) // BYTES_PER_TOKEN + images * TOKENS_PER_IMAGE
    return len(body) // BYTES_PER_TOKEN


def prefix_of(conversation: bytes | memoryview) -> int:
    """A hash of how a conversation's JSON begins, the same in every process; 0 for a shorter one."""
    return crc32(memoryview(conversation)[:PREFIX_BYTES]) if len(conversation) >= PREFIX_BYTES else 0


def longest_answer_tokens(bound: float | None, choices: float | None) -> int | None:
    """Of all choices (`n`) together, at `bound` tokens each; None without a bound."""
    return min(int(bound) * max(1, int(choices or 1)), MOST_TOKENS) if bound is not None and bound > 0 else None
