"""The tokens of one request: as counted, and as estimated before any tokenizer runs."""

from __future__ import annotations

import re
from binascii import crc32

import msgspec


class Usage(msgspec.Struct, frozen=True, gc=False):
    """The tokens of one request."""

    prompt_tokens: int
    completion_tokens: int
    #: Part of `prompt_tokens`, as OpenAI counts them.
    cached_tokens: int = 0
    #: Part of `completion_tokens`, as OpenAI counts them.
    reasoning_tokens: int = 0
    #: The provider sent no usage; these were counted with a tokenizer, or from the length of the text.
    estimated: bool = False

    @property
    def total_tokens(self) -> int:
        """Tokens of prompt and completion."""
        return self.prompt_tokens + self.completion_tokens


#: About as many bytes of JSON make a token: English text has 4.5 characters to one, code and other scripts fewer.
BYTES_PER_TOKEN = 4
#: What is reserved for an answer whose length the caller did not bound.
ASSUMED_COMPLETION_TOKENS = 1024
#: What an inlined image counts as, whatever its size: its bytes say little about its tokens.
TOKENS_PER_IMAGE = 800
#: The least that two prompts have in common for a provider to have something cached: 256 tokens of four bytes.
PREFIX_BYTES = 1024
#: The highest bound on one answer, whatever a caller writes; the OpenAPI document names the same maximum.
MOST_TOKENS = 10**9
_INLINE_DATA = re.compile(rb';base64,[^"]*')


def estimated_prompt_tokens(body: bytes) -> int:
    """Returns the tokens by the length of the request's JSON; images inlined as base64 count as images, not as text."""
    # A shorter body holds no image to speak of, and most bodies are shorter: they are not searched.
    if len(body) > 8192 and b";base64," in body:
        text, images = _INLINE_DATA.subn(b"", body)
        return len(text) // BYTES_PER_TOKEN + images * TOKENS_PER_IMAGE
    return len(body) // BYTES_PER_TOKEN


def prefix_of(conversation: bytes | memoryview) -> int:
    """Returns a hash of how a conversation's JSON begins; 0 for one shorter than PREFIX_BYTES.

    CRC-32, because it is the same in every process, unlike `hash` of bytes.
    """
    return crc32(memoryview(conversation)[:PREFIX_BYTES]) if len(conversation) >= PREFIX_BYTES else 0


def longest_answer_tokens(bound: float | None, choices: float | None) -> int | None:
    """Returns the tokens of all choices (`n`) together, at `bound` each; None without a bound."""
    return min(int(bound) * max(1, int(choices or 1)), MOST_TOKENS) if bound is not None and bound > 0 else None
