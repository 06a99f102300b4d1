"""What adds up over finished requests: counts, tokens, money, latencies. Tallies of two times make one of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from vllm_service.domain.distribution import Distribution
from vllm_service.domain.requests import Outcome, RequestRecord
from vllm_service.domain.usage import Usage

_NUMBERS = (
    *("streams", "attempts", "fallbacks", "targets_met", "targets_missed"),
    *("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens", "estimated", "uncounted"),
    *("timed_tokens", "timed_ms", "queue_ms", "queued", "latency_ms", "latencies"),
    *("cost_picousd", "unpriced", "baseline_picousd", "compared_cost_picousd", "compared_baseline_picousd"),
)


class Tally:
    """Sums over requests; money in exact pico-dollars.

    Latency, TTFT and targets are of requests that a provider completed: a rejection's or a cached answer's millisecond
    says nothing of a model. `uncounted` and `unpriced` are completed requests without usage, or without a cost.
    `compared_*`: of the requests where both the cost and the baseline's cost are known; savings come from them.
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
        self.estimated = self.uncounted = self.timed_tokens = self.queued = self.latencies = 0
        self.timed_ms = self.queue_ms = self.latency_ms = 0.0
        self.cost_picousd = self.baseline_picousd = self.unpriced = 0
        self.compared_cost_picousd = self.compared_baseline_picousd = 0

    def add(self, record: RequestRecord, error_code: str | None, target_ms: float | None) -> None:
        """One finished request. error_code: the record's, or what stands for it where it is not one of ours."""
        outcome, usage = record.outcome, record.usage
        self.by_outcome[outcome] += 1
        self.by_status[record.status] += 1
        if error_code is not None:
            self.errors[error_code] += 1
        self.attempts += record.attempts
        self.fallbacks += record.attempts > 1
        self.streams += record.stream
        if usage is not None:
            self._add_usage(usage)
        if outcome is Outcome.COMPLETED:
            self._add_completed(record, usage, target_ms)
        self._add_money(record)

    def _add_usage(self, usage: Usage) -> None:
        self.prompt_tokens += usage.prompt_tokens
        self.completion_tokens += usage.completion_tokens
        self.cached_tokens += usage.cached_tokens
        self.reasoning_tokens += usage.reasoning_tokens
        self.estimated += usage.estimated

    def _add_completed(self, record: RequestRecord, usage: Usage | None, target_ms: float | None) -> None:
        self.uncounted += usage is None
        self.unpriced += record.cost_picousd is None
        if record.ttft_ms is not None:
            self.ttft.add(record.ttft_ms)
        if record.total_ms is None:
            return
        self.latency.add(record.total_ms)
        self.latency_ms += record.total_ms
        self.latencies += 1
        if record.queue_ms is not None:
            self.queue_ms += record.queue_ms
            self.queued += 1
        if target_ms is not None:
            self.targets_met += record.total_ms <= target_ms
            self.targets_missed += record.total_ms > target_ms
        if usage is not None:
            self.timed_tokens += usage.completion_tokens
            self.timed_ms += record.total_ms

    def _add_money(self, record: RequestRecord) -> None:
        cost, baseline = record.cost_picousd, record.baseline_picousd
        if cost is not None:
            self.cost_picousd += cost
        if baseline is not None:
            self.baseline_picousd += baseline
            if cost is not None:
                self.compared_cost_picousd += cost
                self.compared_baseline_picousd += baseline

    def merge(self, other: Tally) -> None:
        """Everything that the other holds, too."""
        self.by_status.update(other.by_status)
        self.by_outcome.update(other.by_outcome)
        self.errors.update(other.errors)
        self.latency.merge(other.latency)
        self.ttft.merge(other.ttft)
        self.merge_numbers(other)

    def merge_numbers(self, other: Tally) -> None:
        """The plain sums only, ten times as fast: what lists need of many models at once."""
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def requests(self) -> int:
        """All finished requests, however they ended."""
        return sum(self.by_outcome.values())

    @property
    def mean_latency_ms(self) -> float | None:
        """The exact mean; None of nothing."""
        return self.latency_ms / self.latencies if self.latencies else None

    @property
    def savings_picousd(self) -> int:
        """What the baseline would have cost more, where both costs are known; negative if it would have cost less."""
        return self.compared_baseline_picousd - self.compared_cost_picousd

    @property
    def tokens_per_second(self) -> float | None:
        """Generated tokens per second of request time, as one caller sees it; None before anything was measured."""
        return self.timed_tokens / self.timed_ms * 1000 if self.timed_ms else None

    @property
    def target_met_share(self) -> float | None:
        """0-1, of the requests that had a target; None of none."""
        judged = self.targets_met + self.targets_missed
        return self.targets_met / judged if judged else None


def combined(tallies: Iterable[Tally]) -> Tally:
    """One tally of all."""
    result = Tally()
    for tally in tallies:
        result.merge(tally)
    return result
