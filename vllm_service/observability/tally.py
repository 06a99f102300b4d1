"""What adds up over finished requests: counts, tokens, money, latencies. Tallies of two times make one of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from operator import attrgetter

from vllm_service.domain.requests import Outcome, RequestRecord
from vllm_service.domain.usage import Usage
from vllm_service.observability.histogram import Distribution

_NUMBERS = (
    *("streams", "attempts", "fallbacks", "targets_met", "targets_missed"),
    *("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens", "estimated", "uncounted"),
    *("timed_tokens", "timed_ms", "queue_ms", "queued", "latency_ms", "latencies"),
    *("cost_picousd", "unpriced", "baseline_picousd", "compared_cost_picousd", "compared_baseline_picousd"),
)
_HOW = attrgetter("outcome", "status", "attempts", "stream")
_TOKENS = attrgetter("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens", "estimated")
_COST_AND_BASELINE = attrgetter("cost_picousd", "baseline_picousd")


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

    def add(self, records: Sequence[RequestRecord], errors: Iterable[str], target_ms: float | None) -> None:
        """Finished requests, column by column: many at once take a third of what they would take one by one.

        errors: the records' error codes, or what stands for them where they are none of ours.
        """
        if not records:
            return
        outcomes, statuses, attempts, streams = zip(*map(_HOW, records), strict=True)
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
            prompt, cached, completion, reasoning, estimated = map(sum, zip(*map(_TOKENS, usages), strict=True))
            self.prompt_tokens += prompt
            self.cached_tokens += cached
            self.completion_tokens += completion
            self.reasoning_tokens += reasoning
            self.estimated += estimated

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
            usage, total_ms = record.usage, record.total_ms
            self.uncounted += usage is None
            self.unpriced += record.cost_picousd is None
            if usage is not None and total_ms is not None:
                self.timed_tokens += usage.completion_tokens
                self.timed_ms += total_ms

    def _add_money(self, records: Sequence[RequestRecord]) -> None:
        self.cost_picousd += sum([record.cost_picousd or 0 for record in records])
        self.baseline_picousd += sum([record.baseline_picousd or 0 for record in records])
        compared = [pair for pair in map(_COST_AND_BASELINE, records) if None not in pair]
        self.compared_cost_picousd += sum([cost for cost, _ in compared])
        self.compared_baseline_picousd += sum([baseline for _, baseline in compared])

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
