"""Running estimates that forget: means, a line through measured points, lengths of answers, cached prompt prefixes."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar


class Mean:
    """A mean in which the last `memory` observations weigh most; it starts at a guess that weighs as `trust` ones.

    Until `memory` observations have come it is their plain mean, from then on an exponential one.
    """

    __slots__ = ("_memory", "_weight", "value")

    def __init__(self, guess: float, memory: float = 50.0, trust: float = 1.0) -> None:
        self.value = guess
        self._weight = trust
        self._memory = memory

    def add(self, observed: float) -> float:
        """Takes one more observation. Returns by how much the mean has changed."""
        weight = self._weight
        if weight < self._memory:
            weight = self._weight = weight + 1.0
        change = (observed - self.value) / weight
        self.value += change
        return change

    @property
    def weight(self) -> float:
        """The number of observations that the mean rests on, the guess's trust included; at most its memory."""
        return self._weight


class Line:
    """y = intercept + slope x by least squares that forget; starts as a guessed line that weighs as `trust` points.

    Only the five sums of the normal equations are kept, each decayed by `1 - 1 / memory` per point. Intercept and slope
    are kept from going below zero: a speed cannot improve with load.
    """

    __slots__ = ("_keep", "_n", "_x", "_xx", "_xy", "_y", "intercept", "slope")

    def __init__(
        self, intercept: float, slope: float, scale: float, trust: float = 20.0, memory: float = 500.0
    ) -> None:
        self._keep = 1.0 - 1.0 / memory
        self.intercept = intercept
        self.slope = slope
        # Two points of the guessed line, at x = 0 and x = scale, each with half the trust.
        half = trust / 2.0
        end = intercept + slope * scale
        self._n = trust
        self._x = half * scale
        self._xx = half * scale * scale
        self._y = half * (intercept + end)
        self._xy = half * scale * end

    def add(self, x: float, y: float) -> None:
        """Takes one more measured point."""
        keep = self._keep
        self._n = n = self._n * keep + 1.0
        self._x = sx = self._x * keep + x
        self._xx = sxx = self._xx * keep + x * x
        self._y = sy = self._y * keep + y
        self._xy = sxy = self._xy * keep + x * y
        # n squared times the variance of x. While all points have nearly the same x there is no slope to be found.
        spread = n * sxx - sx * sx
        if spread > 1e-9 * n * sxx:
            self.slope = slope = max(0.0, (n * sxy - sx * sy) / spread)
            self.intercept = max(0.0, (sy - slope * sx) / n)

    def at(self, x: float) -> float:
        """Returns the line's value at x."""
        return self.intercept + self.slope * x


Caller = TypeVar("Caller", bound=Hashable)


class MeanByCaller(Generic[Caller]):
    """A mean for each caller, and for one that has none yet the mean of the others' means.

    However much one caller sends, it counts as one for the others: it cannot teach them something false.
    """

    __slots__ = ("_guess", "_means", "_memory", "_most", "_sum", "_trust")

    def __init__(self, guess: float, memory: float = 50.0, trust: float = 1.0, most: int = 1_000) -> None:
        self._guess, self._memory, self._trust, self._most = guess, memory, trust, most
        self._means: dict[Caller, Mean] = {}
        # Of the values of all means.
        self._sum = 0.0

    def expect(self, caller: Caller) -> float:
        """Returns the caller's mean. The guess counts as one more caller where this one has none."""
        mean = self._means.get(caller)
        return (self._guess + self._sum) / (1 + len(self._means)) if mean is None else mean.value

    def add(self, caller: Caller, observed: float) -> None:
        """Takes one more observation."""
        mean = self._means.get(caller) or self._begin(caller)
        self._sum += mean.add(observed)

    def _begin(self, caller: Caller) -> Mean:
        if len(self._means) >= self._most:
            # Rather than grow without bound; means are learned again within a few observations.
            self._means.clear()
            self._sum = 0.0
        expected = self.expect(caller)
        mean = self._means[caller] = Mean(expected, self._memory, self._trust)
        self._sum += expected
        return mean


class AnswerLengths:
    """Expects the number of tokens of an answer: learned by key and operation."""

    __slots__ = ("_by_caller",)

    def __init__(self, guess: float = 200.0, callers: int = 10_000) -> None:
        self._by_caller: MeanByCaller[tuple[str, str]] = MeanByCaller(guess, memory=200.0, trust=5.0, most=callers)

    def expect(self, key_id: str, operation: str, max_tokens: int | None) -> float:
        """Returns the expected tokens, never more than the caller allows."""
        expected = self._by_caller.expect((key_id, operation))
        return expected if max_tokens is None or expected < max_tokens else float(max_tokens)

    def add(self, key_id: str, operation: str, completion_tokens: int) -> None:
        """Takes the length of one more answer."""
        self._by_caller.add((key_id, operation), completion_tokens)


#: Hosted providers keep a prefix for five minutes and more after its last use; they look for it by the first 256 tokens
#: (OpenAI's guide on prompt caching, 2026-11), about as many as RequestFacts.prefix is a hash of.
KEPT_SECONDS = 300.0
#: How many prefixes are remembered per offer; the one that was read longest ago is forgotten first.
MOST_PREFIXES = 10_000


class CachedPrefixes:
    """The cached shares of prompts at one offer: of those that follow one of the same beginning, and of all others."""

    __slots__ = ("_following", "_others", "_read_at")

    def __init__(self) -> None:
        #: When a prompt of each prefix was last read here; the order is that of reading.
        self._read_at: dict[int, float] = {}
        self._following: MeanByCaller[str] = MeanByCaller(0.0)
        self._others: MeanByCaller[str] = MeanByCaller(0.0)

    def has_read(self, prefix: int, now: float, since: float = 0.0) -> bool:
        """Returns whether a prompt that begins so was read here lately, and after `since`; never for the prefix 0."""
        read_at = self._read_at.get(prefix)
        return read_at is not None and read_at > now - KEPT_SECONDS and read_at > since

    def cached_tokens(self, prefix: int, prompt_tokens: int, organisation: str, now: float) -> int:
        """Returns how many tokens of an organisation's prompt that begins so are expected to be cached here."""
        share = self._others.expect(organisation)
        read_at = self._read_at.get(prefix)
        if read_at is not None and read_at > now - KEPT_SECONDS:
            share = max(share, self._following.expect(organisation))
        return int(share * prompt_tokens)

    def add(self, prefix: int, follows: bool, share: float, organisation: str, now: float) -> None:
        """Learns from a prompt that was read here: this share of it was cached. follows: as it was when it was sent."""
        (self._following if follows else self._others).add(organisation, share)
        if prefix:
            read_at = self._read_at
            read_at.pop(prefix, None)  # what was read last comes last
            read_at[prefix] = now
            if len(read_at) > MOST_PREFIXES:
                del read_at[next(iter(read_at))]
