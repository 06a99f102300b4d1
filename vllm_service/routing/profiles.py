"""The router's assumptions before it has measured: endpoints' speeds and limits, and the promise to callers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointProfile:
    """A per-second endpoint as expected; measured values replace the speeds. Raises ValueError for impossible ones."""

    #: The speed at which one worker reads prompts, one after the other.
    prefill_tokens_per_second: float = 8000.0
    #: A token of one of `batch` answers takes `decode_seconds + decode_seconds_per_batch x batch`.
    decode_seconds: float = 0.011
    decode_seconds_per_batch: float = 0.0003
    #: The share of the GPU that a prompt takes from the answers while it is being read.
    prefill_share: float = 0.7
    #: Requests in flight per worker.
    slots: int = 32
    cold_start_seconds: float = 30.0
    #: How long a worker is billed after its last job.
    idle_timeout_seconds: float = 5.0
    max_workers: int = 10
    #: RunPod's active workers, which are paid whether they work or not: they are used, and never woken.
    always_on_workers: int = 0
    #: The platform's share of the wait for the first token.
    overhead_seconds: float = 0.15

    def __post_init__(self) -> None:
        positive = (self.prefill_tokens_per_second, self.decode_seconds, self.slots, self.max_workers)
        others = (
            *(self.decode_seconds_per_batch, self.cold_start_seconds, self.idle_timeout_seconds),
            *(self.always_on_workers, self.max_workers - self.always_on_workers),
        )
        if min(positive) <= 0 or min(others) < 0 or not 0 <= self.prefill_share < 1 or self.overhead_seconds < 0:
            raise ValueError(
                f"{self} is not possible: speeds, slots and max_workers must be above 0, times at least 0, "
                "prefill_share at least 0 and below 1, always_on_workers from 0 to max_workers"
            )

    @property
    def decode_tokens_per_second(self) -> float:
        """The speed of all answers of one worker whose slots are busy, while no prompt is being read."""
        return self.slots / (self.decode_seconds + self.decode_seconds_per_batch * self.slots)


@dataclass(frozen=True, slots=True)
class LatencyTarget:
    """First token within `ttft_seconds` + prompt / `prompt_tokens_per_second`, then `seconds_per_output_token` each."""

    ttft_seconds: float = 2.0
    prompt_tokens_per_second: float = 5000.0
    seconds_per_output_token: float = 0.06

    def first_token_seconds(self, prompt_tokens: float) -> float:
        """Returns the promised wait for the first token of such a request."""
        return self.ttft_seconds + prompt_tokens / self.prompt_tokens_per_second


#: Of an endpoint's workers that can be woken; see RouterSettings.
ORGANISATION_SHARE = 0.5


@dataclass(frozen=True)
class RouterSettings:
    """The router's settings beyond the catalog."""

    #: Profiles of per-second endpoints, by the provider's name.
    profiles: Mapping[str, EndpointProfile] = field(default_factory=lambda: MappingProxyType({}))
    target: LatencyTarget = LatencyTarget()
    default_strategy: str = "COST"
    #: The share of requests that BALANCED sends to own endpoints.
    own_share: float = 0.8
    #: How many offers a plan names at most.
    max_steps: int = 3
    #: Own answers are predicted within this share of the target at the start; what is measured moves it.
    cost_margin: float = 0.93
    #: The share of own answers that may be late: less than the 1 % that the floor of 99 % leaves (docs/routing.md).
    miss_budget: float = 0.006
    #: The share of an endpoint's workers, at least one, that one organisation's demand may wake before its answered
    #: requests have paid for the start of more.
    organisation_share: float = ORGANISATION_SHARE
