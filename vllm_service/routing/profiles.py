"""What the router is told about places before it has measured them: an endpoint's speed, and what is promised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointProfile:
    """A per-second endpoint. These are where estimates start; measured values replace them. ValueError: not positive.

    A token of one of `batch` answers takes `decode_seconds + decode_seconds_per_batch x batch`; a prompt that is being
    read takes `prefill_share` of the GPU from the answers. slots: requests in flight per worker. overhead_seconds: of
    the platform, per request. idle_timeout_seconds: how long a worker is billed after its last job. always_on_workers:
    RunPod's active workers, which are paid whether they work or not: they are used, and nobody is woken for them.
    """

    prefill_tokens_per_second: float = 8000.0
    decode_seconds: float = 0.011
    decode_seconds_per_batch: float = 0.0003
    prefill_share: float = 0.7
    slots: int = 32
    cold_start_seconds: float = 30.0
    idle_timeout_seconds: float = 5.0
    max_workers: int = 10
    always_on_workers: int = 0
    overhead_seconds: float = 0.15

    def __post_init__(self) -> None:
        positive = (self.prefill_tokens_per_second, self.decode_seconds, self.slots, self.max_workers)
        others = (
            *(self.decode_seconds_per_batch, self.cold_start_seconds, self.idle_timeout_seconds),
            *(self.always_on_workers, self.max_workers - self.always_on_workers),
        )
        if min(positive) <= 0 or min(others) < 0 or not 0 <= self.prefill_share < 1 or self.overhead_seconds < 0:
            raise ValueError(f"{self} cannot be: speeds, slots and max_workers are positive, times not negative")

    @property
    def decode_tokens_per_second(self) -> float:
        """Of one worker whose slots are all busy, while no prompt is being read."""
        return self.slots / (self.decode_seconds + self.decode_seconds_per_batch * self.slots)


@dataclass(frozen=True, slots=True)
class LatencyTarget:
    """First token within `ttft_seconds` + prompt / `prompt_tokens_per_second`; then so long per output token."""

    ttft_seconds: float = 2.0
    prompt_tokens_per_second: float = 5000.0
    seconds_per_output_token: float = 0.06

    def first_token_seconds(self, prompt_tokens: float) -> float:
        """The promise for the first token of such a request."""
        return self.ttft_seconds + prompt_tokens / self.prompt_tokens_per_second


@dataclass(frozen=True)
class RouterSettings:
    """What providers.yaml and models.yaml do not hold. profiles: of per-second endpoints, by the provider's name.

    own_share: BALANCED's. max_steps: places in a plan. cost_margin: own answers are predicted to be within this share
    of the target, at the start; what is measured moves it, so that about `miss_budget` of own answers are late.
    """

    profiles: Mapping[str, EndpointProfile] = field(default_factory=lambda: MappingProxyType({}))
    target: LatencyTarget = LatencyTarget()
    default_strategy: str = "COST"
    own_share: float = 0.8
    max_steps: int = 3
    cost_margin: float = 0.93
    miss_budget: float = 0.006
