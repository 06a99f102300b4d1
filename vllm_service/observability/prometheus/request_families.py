"""The families of requests: per model, per provider, money and errors. See docs/metrics.md."""

from __future__ import annotations

from collections.abc import Mapping

from vllm_service.catalog.model import APPLE_SILICON_TAG
from vllm_service.domain.cost_basis import BOOKED, EXPECTED
from vllm_service.domain.money import to_usd
from vllm_service.domain.requests import Outcome
from vllm_service.observability.prometheus.family import (
    Family,
    Samples,
    Snapshot,
    counter,
    gauge,
    histogram,
    one,
    per_model,
    per_provider,
)
from vllm_service.observability.tally import Tally


def _statuses(snapshot: Snapshot) -> Samples:
    """Yields the counts by HTTP status, 100 to 599. Any other number that a provider has sent counts as "other"."""
    for model, tally in snapshot.models.items():
        odd = 0
        for status, count in tally.by_status.items():
            if 100 <= status <= 599:
                yield (model, str(status)), count
            else:
                odd += count
        if odd:
            yield (model, "other"), odd


def _provider_outcomes(snapshot: Snapshot) -> Samples:
    for name, tally in snapshot.providers.items():
        yield from (((name, outcome.value), count) for outcome, count in tally.by_outcome.items())


def _on_apple_silicon(snapshot: Snapshot) -> float:
    """Returns the number of requests at providers that are tagged apple-silicon."""
    return sum(
        tally.requests
        for name, tally in snapshot.providers.items()
        if name in snapshot.catalog.providers and APPLE_SILICON_TAG in snapshot.catalog.providers[name].tags
    )


def _by_basis(tallies: Mapping[str, Tally]) -> Samples:
    """Yields dollars by what they rest on. A bill comes later and is in the ledger only."""
    for name, tally in tallies.items():
        yield (name, EXPECTED.value), to_usd(tally.expected_picousd)
        yield (name, BOOKED.value), to_usd(tally.booked_picousd)


def _targets(snapshot: Snapshot) -> Samples:
    return (((model,), None if ms is None else ms / 1000) for model, ms in snapshot.targets_ms.items())


REQUESTS: tuple[Family, ...] = (
    counter("vllm_requests_total", "Finished requests by HTTP status", _statuses, "model", "status"),
    counter(
        "vllm_request_outcomes_total",
        "Finished requests by outcome: completed, cancelled, failed, rejected, cached",
        lambda s: (((outcome.value,), s.everything.by_outcome[outcome]) for outcome in Outcome),
        "outcome",
    ),
    counter(
        "vllm_errors_total",
        "Requests that ended in an error, by the gateway's error code; codes of a provider's own are `other`",
        lambda s: (((code,), count) for code, count in s.everything.errors.items()),
        "code",
    ),
    histogram(
        "vllm_request_duration_seconds", "Arrival to end of completed requests", per_model(lambda t: t.latency), "model"
    ),
    histogram(
        "vllm_time_to_first_token_seconds",
        "Arrival to first content of completed requests",
        per_model(lambda t: t.ttft),
        "model",
    ),
    counter(
        "vllm_request_queue_seconds_total",
        "Seconds that completed requests waited before they were sent",
        per_model(lambda t: t.queue_ms / 1000),
        "model",
    ),
    gauge("vllm_latency_target_seconds", "The model's latency target", _targets, "model"),
    counter(
        "vllm_latency_target_met_total",
        "Completed requests within their target",
        per_model(lambda t: t.targets_met),
        "model",
    ),
    counter(
        "vllm_latency_target_missed_total",
        "Completed requests beyond their target",
        per_model(lambda t: t.targets_missed),
        "model",
    ),
    counter("vllm_stream_requests_total", "Finished requests for a stream", per_model(lambda t: t.streams), "model"),
    counter("vllm_prompt_tokens_total", "Prompt tokens", per_model(lambda t: t.prompt_tokens), "model"),
    counter(
        "vllm_cached_prompt_tokens_total",
        "Prompt tokens that a provider had cached",
        per_model(lambda t: t.cached_tokens),
        "model",
    ),
    counter("vllm_tokens_generated_total", "Generated tokens", per_model(lambda t: t.completion_tokens), "model"),
    counter(
        "vllm_reasoning_tokens_total",
        "Generated tokens that were reasoning",
        per_model(lambda t: t.reasoning_tokens),
        "model",
    ),
    counter(
        "vllm_usage_estimated_total",
        "Requests of which tokens were counted here, since the provider sent no usage, or a part of it",
        per_model(lambda t: t.estimated),
        "model",
    ),
    counter(
        "vllm_usage_implausible_total",
        "Requests whose provider reported tokens that they cannot have used; they were bounded or estimated",
        per_provider(lambda t: t.implausible),
        "provider",
    ),
    counter(
        "vllm_usage_missing_total", "Completed requests without any usage", per_model(lambda t: t.uncounted), "model"
    ),
    gauge(
        "vllm_model_tokens_per_second",
        "Generated tokens per second of request time",
        per_model(lambda t: t.tokens_per_second),
        "model",
    ),
    gauge(
        "vllm_quality_score",
        "Measured quality, 0 to 1",
        lambda s: (((k,), v) for k, v in s.quality_scores.items()),
        "model",
    ),
    counter(
        "vllm_cost_usd_total",
        "What providers charge, US dollars, as known at the end of a request; expected: own workers, estimated tokens",
        lambda s: _by_basis(s.models),
        "model",
        "basis",
    ),
    counter(
        "vllm_baseline_cost_usd_total",
        "What the baseline model would have cost, US dollars",
        per_model(lambda t: to_usd(t.baseline_picousd)),
        "model",
    ),
    gauge(
        "vllm_expected_savings_usd",
        "Baseline less cost as known at the end of requests, since the start: no cold starts, no idle seconds",
        per_model(lambda t: to_usd(t.savings_picousd)),
        "model",
    ),
    counter(
        "vllm_unpriced_requests_total", "Completed requests of unknown cost", per_model(lambda t: t.unpriced), "model"
    ),
    counter(
        "vllm_apple_silicon_requests_total",
        "Requests answered by providers that are tagged apple-silicon",
        one(_on_apple_silicon),
    ),
    counter(
        "vllm_provider_requests_total",
        "Finished requests by the provider that answered last",
        _provider_outcomes,
        "provider",
        "outcome",
    ),
    histogram(
        "vllm_provider_request_duration_seconds",
        "Arrival to end of completed requests",
        per_provider(lambda t: t.latency),
        "provider",
    ),
    histogram(
        "vllm_provider_time_to_first_token_seconds",
        "Arrival to first content of completed requests",
        per_provider(lambda t: t.ttft),
        "provider",
    ),
    counter("vllm_provider_prompt_tokens_total", "Prompt tokens", per_provider(lambda t: t.prompt_tokens), "provider"),
    counter(
        "vllm_provider_tokens_generated_total",
        "Generated tokens",
        per_provider(lambda t: t.completion_tokens),
        "provider",
    ),
    counter(
        "vllm_provider_cost_usd_total",
        "What this provider charges, US dollars, as known at the end of a request",
        lambda s: _by_basis(s.providers),
        "provider",
        "basis",
    ),
    counter(
        "vllm_router_attempts_total", "Sendings to a provider, all tries counted", one(lambda s: s.everything.attempts)
    ),
    counter(
        "vllm_router_fallbacks_total",
        "Requests that needed more than one provider",
        one(lambda s: s.everything.fallbacks),
    ),
    counter(
        "vllm_quota_rejected_requests_total",
        "Requests refused for a rate limit or quota",
        one(lambda s: s.everything.errors["RATE_LIMIT_429"]),
    ),
)
