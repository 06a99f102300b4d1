"""What a place has cached of prompts, as its answers say: much of one that begins like another it has read lately."""

from __future__ import annotations

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

    def has_read(self, prefix: int, since: float) -> bool:
        """Whether a prompt of this beginning was read here after `since`; never for 0, which is no beginning."""
        return self._read_at.get(prefix, since) > since

    def share(self, prefix: int, since: float) -> float:
        """Of such a prompt's tokens that are expected to be cached, if what was read after `since` is; from 0 to 1."""
        others = self._others.value
        if self._read_at.get(prefix, since) > since:
            following = self._following.value
            return following if following > others else others
        return others

    def add(self, prefix: int, follows: bool, share: float, now: float) -> None:
        """A prompt was read here, and this share of it had been cached. follows: as it was when the prompt was sent."""
        (self._following if follows else self._others).add(share)
        if prefix:
            read_at = self._read_at
            read_at.pop(prefix, None)  # what was read last comes last
            read_at[prefix] = now
            if len(read_at) > MOST_PREFIXES:
                del read_at[next(iter(read_at))]
