"""What the environment says, in the words of the parts that are made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_service.errors import ConfigurationError
from vllm_service.http.limits import ConnectionLimits
from vllm_service.resilience.breakers.circuit_breaker import BreakerSettings
from vllm_service.resilience.hedging import HedgeSettings, Hedging
from vllm_service.resilience.policy import ResiliencePolicy
from vllm_service.resilience.retry_schedule import DeadlineSettings, RetrySettings
from vllm_service.settings import ServiceSettings
from vllm_service.storage.open import Storage

if TYPE_CHECKING:
    from vllm_service.observability.opentelemetry import Tracing


def policy_of(settings: ServiceSettings, storage: Storage) -> ResiliencePolicy:
    """Breakers (shared through the storage), attempts, deadlines, hedging."""
    seconds = settings.request_timeout_seconds
    shut = settings.breaker_open_seconds
    hedges = HedgeSettings(percent=settings.hedge_percent, delay_seconds=settings.hedge_delay_seconds)
    return ResiliencePolicy.of(
        BreakerSettings(
            consecutive_failures=settings.breaker_failures, open_seconds=shut, longest_open_seconds=max(300.0, shut)
        ),
        storage.breakers,
        RetrySettings(attempts=settings.attempts, attempts_per_place=settings.attempts_per_place),
        DeadlineSettings(default_seconds=seconds, longest_seconds=seconds),
        Hedging(hedges, is_on=settings.hedge),
    )


def connection_limits(settings: ServiceSettings) -> ConnectionLimits:
    """Sizes and times of callers' connections."""
    return ConnectionLimits(
        head_bytes=settings.max_header_bytes,
        body_bytes=settings.max_body_bytes,
        head_seconds=settings.header_timeout_seconds,
        body_seconds=settings.body_timeout_seconds,
        keep_alive_seconds=settings.keep_alive_seconds,
        stalled_write_seconds=settings.write_timeout_seconds,
        connections=settings.max_connections,
    )


def tracing_to(endpoint: str) -> Tracing:
    """Imported only now: nobody else pays for it. ConfigurationError where the extra is not installed."""
    try:
        from vllm_service.observability.opentelemetry import Tracing  # noqa: PLC0415

        return Tracing.to(endpoint)
    except ImportError as error:
        variable = "OTEL_EXPORTER_OTLP_ENDPOINT"
        message = f"{variable} is set, but {error.name} is not installed: pip install 'vllm-service[tracing]'."
        raise ConfigurationError(message, param=variable) from None
