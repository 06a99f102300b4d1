"""Providers and public models as values: what providers.yaml and models.yaml say, after validation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from vllm_service.domain.pricing import SecondPrice, TokenPrice

# A provider tagged so in providers.yaml runs on Apple silicon.
APPLE_SILICON_TAG = "apple-silicon"


class ProviderKind(StrEnum):
    """How a provider is reached and billed: RunPod by the second of a worker, the others by the token."""

    RUNPOD = "runpod"
    HOSTED = "hosted"


class OnDisconnect(StrEnum):
    """What becomes of an answer when the caller has left: stopped, or read to its end since it is billed anyway."""

    STOP = "stop"
    DRAIN = "drain"


@dataclass(frozen=True, slots=True)
class WorkersMin:
    """A RunPod endpoint whose workersMin the gateway sets to as many workers as the router wants.

    url: of RunPod's management API, `https://rest.runpod.io/v1/endpoints/ENDPOINT_ID`. base: what it is set back to by
    the last gateway that stops.
    """

    url: str
    base: int = 0


@dataclass(frozen=True, slots=True)
class Provider:
    """A place that answers OpenAI requests.

    base_url: up to and with `/v1`; for RunPod `https://api.runpod.ai/v2/ENDPOINT/openai/v1`.
    api_key: the provider's, never shown; None sends no Authorization.
    control_url: RunPod's `/v2/ENDPOINT`, where `/health` and `/run` are; None for hosted providers.
    workers_min: set where that number follows the router; None where workers are woken by warm-up jobs.
    second_price: RunPod's, per worker. expected: where the router's estimates of an endpoint start, by the names of
    routing.profiles.EndpointProfile. timeouts in seconds: to connect, to a stream's first byte, between bytes.
    """

    name: str
    kind: ProviderKind
    base_url: str
    api_key: str | None = field(default=None, repr=False)
    control_url: str | None = None
    second_price: SecondPrice | None = None
    on_disconnect: OnDisconnect = OnDisconnect.STOP
    connect_timeout_seconds: float = 5.0
    first_byte_timeout_seconds: float = 120.0
    idle_timeout_seconds: float = 60.0
    max_connections: int = 1024
    region: str | None = None
    tags: frozenset[str] = frozenset()
    expected: tuple[tuple[str, float], ...] = ()
    workers_min: WorkersMin | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """A provider that serves a model: its name there, and its price there; None is unknown, or by the second."""

    provider: str
    model: str
    price: TokenPrice | None = None
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class PublicModel:
    """A model as callers name it. `offers` are in configured order; `baseline` is what savings are counted against.

    tokenizer: counts what a provider that sends no usage did not; a tokenizer.json, or a folder that holds one.
    """

    name: str
    offers: tuple[Offer, ...]
    aliases: tuple[str, ...] = ()
    context_length: int | None = None
    capabilities: frozenset[str] = frozenset()
    description: str | None = None
    latency_target_seconds: float | None = None
    strategy: str | None = None
    baseline_model: str | None = None
    baseline_price: TokenPrice | None = None
    tokenizer: Path | None = None


@dataclass(frozen=True)
class Catalog:
    """Everything that can be asked for, and where. `models` holds each model under its name and under its aliases."""

    providers: Mapping[str, Provider]
    models: Mapping[str, PublicModel]
