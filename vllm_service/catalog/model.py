"""Providers and public models as values: the validated content of providers.yaml and models.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from vllm_service.domain.pricing import SecondPrice, TokenPrice

#: The tag in providers.yaml of a provider that runs on Apple silicon.
APPLE_SILICON_TAG = "apple-silicon"


class ProviderKind(StrEnum):
    """The kinds of providers, by API and bill: RunPod by the second of a worker, hosted ones by the token."""

    RUNPOD = "runpod"
    HOSTED = "hosted"


class OnDisconnect(StrEnum):
    """The treatment of a provider's answer when the caller has left."""

    #: The connection to the provider is closed.
    STOP = "stop"
    #: The answer is read to its end, where the provider bills it anyway.
    DRAIN = "drain"


class PromptCache(StrEnum):
    """The way a provider keeps organisations' cached prompts apart. docs/providers.md has the price of each."""

    __hash__ = str.__hash__  # Enum's own is Python, and each request looks at it

    #: By vLLM's `cache_salt`: a prompt is found only by those who send the same salt.
    VLLM = "vllm"
    #: By OpenAI's `prompt_cache_key`: a prompt is looked for where others with the same key were read.
    OPENAI = "openai"
    #: Not at all: nothing is sent, and a caller's own member passes as it is.
    SHARED = "shared"


class ManagementApi(StrEnum):
    """The version of the API by which an endpoint is managed."""

    #: RunPod's REST API since 2026.
    V2 = "v2"
    #: Its predecessor, which RunPod retired. Servers of your own may speak it.
    V1 = "v1"


@dataclass(frozen=True, slots=True)
class Management:
    """The address at which a RunPod endpoint is managed: its worker bounds, its workers."""

    endpoint_id: str
    #: `https://api.runpod.io`, or a stand-in's.
    origin: str
    api: ManagementApi = ManagementApi.V2

    @property
    def path(self) -> str:
        """The endpoint's path at the origin."""
        kind = "v2/serverless" if self.api is ManagementApi.V2 else "v1/endpoints"
        return f"/{kind}/{self.endpoint_id}"

    @property
    def url(self) -> str:
        """The endpoint's address, by which endpoints differ."""
        return self.origin + self.path


@dataclass(frozen=True, slots=True)
class WorkersMin:
    """The part of a RunPod endpoint whose workersMin the gateway sets to the router's worker target."""

    #: The workersMin that the last gateway to stop sets again.
    base: int = 0


@dataclass(frozen=True, slots=True)
class Provider:
    """A service that answers OpenAI requests: a RunPod endpoint or a hosted provider."""

    name: str
    kind: ProviderKind
    #: Up to and including `/v1`; for RunPod `https://api.runpod.ai/v2/ENDPOINT_ID/openai/v1`, or
    #: `https://ENDPOINT_ID.api.runpod.ai/v1` of a load balancer.
    base_url: str
    #: Secret, hence in no repr. None sends no Authorization header.
    api_key: str | None = field(default=None, repr=False)
    #: RunPod's `/v2/ENDPOINT_ID`, the parent of `/health` and `/run`; None for hosted providers.
    control_url: str | None = None
    #: RunPod's price of a second of one worker.
    second_price: SecondPrice | None = None
    #: The price of a second of one GPU by RunPod's id of its type; see worker_prices.py.
    gpu_prices: tuple[tuple[str, SecondPrice], ...] = ()
    on_disconnect: OnDisconnect = OnDisconnect.STOP
    connect_timeout_seconds: float = 5.0
    #: From the request to the first byte, of streams only: a whole answer may take as long as its request.
    first_byte_timeout_seconds: float = 120.0
    #: Between two bytes of an answer.
    idle_timeout_seconds: float = 60.0
    max_connections: int = 1024
    #: How long a request waits for a free connection; None: see `queue_seconds`.
    queue_timeout_seconds: float | None = None
    #: Whether streams are sent with `stream_options`; None: until the provider refuses them.
    stream_options: bool | None = None
    prompt_cache: PromptCache = PromptCache.SHARED
    region: str | None = None
    tags: frozenset[str] = frozenset()
    #: The router's first estimates of an endpoint, by the names of routing.profiles.EndpointProfile's fields.
    expected: tuple[tuple[str, float], ...] = ()
    #: Set for every RunPod endpoint of providers.yaml.
    management: Management | None = None
    #: Set where the gateway sets workersMin; None where warm-up jobs wake the workers.
    workers_min: WorkersMin | None = None
    #: Whether a RunPod endpoint is a load balancer, which has no queue.
    is_balanced: bool = False
    #: Whether requests ask its load balancer for the worker that has read the conversation's beginning.
    keeps_conversations: bool = False
    #: How long a worker stays without a request, and a conversation on it without a turn.
    idle_worker_seconds: float = 5.0

    @property
    def queue_seconds(self) -> float:
        """The time that a request waits for a free connection, at most.

        An own endpoint's is a place in a worker, for which it may wait as long as for the worker's first byte. A hosted
        provider's is worth no more time than opening one.
        """
        if self.queue_timeout_seconds is not None:
            return self.queue_timeout_seconds
        return self.first_byte_timeout_seconds if self.kind is ProviderKind.RUNPOD else self.connect_timeout_seconds


@dataclass(frozen=True, slots=True)
class Offer:
    """A provider's model that can answer a public model's requests."""

    provider: str
    #: The model's name at the provider.
    model: str
    #: None where it is unknown, or the provider is paid by the second.
    price: TokenPrice | None = None
    #: The offer's share of the requests under the strategy WEIGHTED, relative to the other offers'.
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class PublicModel:
    """A model as callers name it."""

    name: str
    #: In configured order.
    offers: tuple[Offer, ...]
    aliases: tuple[str, ...] = ()
    context_length: int | None = None
    capabilities: frozenset[str] = frozenset()
    description: str | None = None
    latency_target_seconds: float | None = None
    strategy: str | None = None
    #: The model that savings are counted against, such as `openai/gpt-4o-mini`, and its price.
    baseline_model: str | None = None
    baseline_price: TokenPrice | None = None
    #: A tokenizer.json, or a directory with one: it counts tokens where a provider sends no usage.
    tokenizer: Path | None = None


@dataclass(frozen=True)
class Catalog:
    """All enabled providers and all models that they serve."""

    providers: Mapping[str, Provider]
    #: Each model under its name, its aliases and its tasks.
    models: Mapping[str, PublicModel]
