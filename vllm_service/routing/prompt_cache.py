"""What a place has cached of prompts, as its answers say: much of one that begins like another it has read lately."""

from __future__ import annotations

from vllm_service.domain.requests import RequestFacts
from vllm_service.routing.estimates import Mean

# Hosted providers keep a prefix for five minutes and more after its last use; they look for it by the first 256 tokens
# (OpenAI's guide on prompt caching, 2026-11), about as many as RequestFacts.prefix is a hash of.
KEPT_SECONDS = 300.0
MOST_PREFIXES = 10_000


class PromptCache:
    """Two learned shares of prompts: of those that follow one of the same beginning, and of all others."""

    __slots__ = ("_following", "_others", "_read_at")

    def __init__(self) -> None:
        self._read_at: dict[int, float] = {}
        self._following = Mean(0.0)
        self._others = Mean(0.0)

    def has_read(self, prefix: int, now: float, since: float = 0.0) -> bool:
        """Whether a prompt of this beginning was read here lately, and after `since`; never for 0: no beginning."""
        read_at = self._read_at.get(prefix)
        return read_at is not None and read_at > now - KEPT_SECONDS and read_at > since

    def cached_tokens(self, facts: RequestFacts, now: float) -> int:
        """Of its prompt, that are expected to be cached here."""
        share, read_at = self._others.value, self._read_at.get(facts.prefix)
        if read_at is not None and read_at > now - KEPT_SECONDS and self._following.value > share:
            share = self._following.value
        return int(share * facts.prompt_tokens)

    def add(self, prefix: int, follows: bool, share: float, now: float) -> None:
        """A prompt was read here, and this share of it had been cached. follows: as it was when the prompt was sent."""
        (self._following if follows else self._others).add(share)
        if prefix:
            read_at = self._read_at
            read_at.pop(prefix, None)  # what was read last comes last
            read_at[prefix] = now
            if len(read_at) > MOST_PREFIXES:
                del read_at[next(iter(read_at))]
