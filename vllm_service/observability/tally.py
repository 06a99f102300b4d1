"""Sums over finished requests: counts, tokens, money, latencies. Tallies of two spans merge to one of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from operator import attrgetter

from vllm_service.domain.cost_basis import EXPECTED
from vllm_service.domain.requests import Outcome, RequestRecord
from vllm_service.domain.usage import Usage
from vllm_service.observability.histogram import Distribution

#: The plain sums, which `merge_numbers` adds.
_NUMBERS = (
    *("streams", "attempts", "fallbacks", "targets_met", "targets_missed"),
    *("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens"),
    *("estimated", "implausible", "uncounted"),
    *("timed_tokens", "timed_ms", "queue_ms", "queued", "latency_ms", "latencies"),
    *(
        "cost_picousd",
        "expected_picousd",
        "unpriced",
        "baseline_picousd",
        "compared_cost_picousd",
        "compared_baseline_picousd",
    ),
)
_COUNTED = attrgetter("outcome", "status", "attempts", "stream")
_TOKENS = attrgetter(
    *("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens", "estimated", "implausible")
)
_COST_AND_BASELINE = attrgetter("cost_picousd", "baseline_picousd")


class Tally:
    """Sums over requests, with money in exact pico-dollars.

    Latency, TTFT and targets are those of requests that a provider completed: the millisecond of a rejection or of a
    cached answer is no measure of a model. Savings come from the requests of which both the cost and the baseline's
    cost are known; an unknown cost would look like a saving.
    """

    __slots__ = ("by_outcome", "by_status", "errors", "latency", "ttft", *_NUMBERS)

    def __init__(self) -> None:
        self.by_status: Counter[int] = Counter()
        self.by_outcome: Counter[Outcome] = Counter()
        self.errors: Counter[str] = Counter()
        self.latency = Distribution()
        self.ttft = Distribution()
        self.streams = self.attempts = self.fallbacks = self.targets_met = self.targets_missed = 0
        self.prompt_tokens = self.cached_tokens = self.completion_tokens = self.reasoning_tokens = 0
        # Requests with an estimated usage, those of them whose provider reported what cannot be, and completed requests
        # without a usage.
        self.estimated = self.implausible = self.uncounted = 0
        # Of requests with both: generated tokens and duration, from which tokens per second follow.
        self.timed_tokens = 0
        # How many values `queue_ms` and `latency_ms` sum up.
        self.queued = self.latencies = 0
        self.timed_ms = self.queue_ms = self.latency_ms = 0.0
        self.cost_picousd = self.baseline_picousd = 0
        # The part of the cost that is the router's expectation, or is by estimated tokens.
        self.expected_picousd = 0
        # Completed requests of unknown cost.
        self.unpriced = 0
        # Of requests where both are known.
        self.compared_cost_picousd = self.compared_baseline_picousd = 0

    def add(self, records: Sequence[RequestRecord], errors: Iterable[str], target_ms: float | None) -> None:
        """Adds finished requests, column by column: many at once take a third of the time of one by one.

        errors: the records' error codes, those of providers replaced by "other".
        """
        if not records:
            return
        outcomes, statuses, attempts, streams = zip(*map(_COUNTED, records), strict=True)
        self.by_outcome.update(outcomes)
        self.by_status.update(statuses)
        self.errors.update(errors)
        self.attempts += sum(attempts)
        self.fallbacks += sum(map((1).__lt__, attempts))
        self.streams += sum(streams)
        self._add_usage([record.usage for record in records if record.usage is not None])
        self._add_completed([record for record in records if record.outcome is Outcome.COMPLETED], target_ms)
        self._add_money(records)

    def _add_usage(self, usages: Sequence[Usage]) -> None:
        if usages:
            columns = zip(*map(_TOKENS, usages), strict=True)
            prompt, cached, completion, reasoning, estimated, implausible = map(sum, columns)
            self.prompt_tokens += prompt
            self.cached_tokens += cached
            self.completion_tokens += completion
            self.reasoning_tokens += reasoning
            self.estimated += estimated
            self.implausible += implausible

    def _add_completed(self, records: Sequence[RequestRecord], target_ms: float | None) -> None:
        self.ttft.add_all([record.ttft_ms for record in records if record.ttft_ms is not None])
        timed = [record.total_ms for record in records if record.total_ms is not None]
        self.latency.add_all(timed)
        self.latency_ms += sum(timed)
        self.latencies += len(timed)
        queued = [record.queue_ms for record in records if record.queue_ms is not None and record.total_ms is not None]
        self.queue_ms += sum(queued)
        self.queued += len(queued)
        if target_ms is not None:
            met = sum([total_ms <= target_ms for total_ms in timed])
            self.targets_met += met
            self.targets_missed += len(timed) - met
        for record in records:
            usage = record.usage
            total_ms = record.total_ms
            self.uncounted += usage is None
            self.unpriced += record.is_unpriced
            if usage is not None and total_ms is not None:
                self.timed_tokens += usage.completion_tokens
                self.timed_ms += total_ms

    def _add_money(self, records: Sequence[RequestRecord]) -> None:
        self.cost_picousd += sum([record.cost_picousd or 0 for record in records])
        self.expected_picousd += sum([record.cost_picousd or 0 for record in records if record.cost_basis is EXPECTED])
        self.baseline_picousd += sum([record.baseline_picousd or 0 for record in records])
        compared = [pair for pair in map(_COST_AND_BASELINE, records) if None not in pair]
        self.compared_cost_picousd += sum([cost for cost, _ in compared])
        self.compared_baseline_picousd += sum([baseline for _, baseline in compared])

    def merge(self, other: Tally) -> None:
        """Adds all sums of the other."""
        self.by_status.update(other.by_status)
        self.by_outcome.update(other.by_outcome)
        self.errors.update(other.errors)
        self.latency.merge(other.latency)
        self.ttft.merge(other.ttft)
        self.merge_numbers(other)

    def merge_numbers(self, other: Tally) -> None:
        """Adds the plain sums of the other, in a tenth of the time: enough for lists of many models."""
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def requests(self) -> int:
        """The number of finished requests, however they ended."""
        return sum(self.by_outcome.values())

    @property
    def mean_latency_ms(self) -> float | None:
        """The exact mean; None without requests."""
        return self.latency_ms / self.latencies if self.latencies else None

    @property
    def booked_picousd(self) -> int:
        """The part of the cost that is by counted tokens."""
        return self.cost_picousd - self.expected_picousd

    @property
    def savings_picousd(self) -> int:
        """The baseline's cost less the real cost, where both are known. Negative if the baseline is cheaper."""
        return self.compared_baseline_picousd - self.compared_cost_picousd

    @property
    def tokens_per_second(self) -> float | None:
        """Generated tokens per second of request time, as one caller sees it; None without requests."""
        return self.timed_tokens / self.timed_ms * 1000 if self.timed_ms else None

    @property
    def target_met_share(self) -> float | None:
        """The share (0-1) of requests within their target; None without requests that have one."""
        with_target = self.targets_met + self.targets_missed
        return self.targets_met / with_target if with_target else None


def combined(tallies: Iterable[Tally]) -> Tally:
    """Returns one tally of all."""
    result = Tally()
    for tally in tallies:
        result.merge(tally)
    return result
