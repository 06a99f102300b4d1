"""What an own endpoint is wanted for; the rules that turn it into a number of workers are loaded when first wanted.

The rules need numpy, which takes longer to import than the rest of the router. Routing alone needs no rules: a client
whose providers are all hosted, or a command that only reads a configuration, never loads them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_service.routing.demand.counterfactual import Heard, Speeds

if TYPE_CHECKING:
    from vllm_service.routing.demand.target import DemandController


class EndpointDemand:
    """For one endpoint: a waking.DemandController, made by `load`, or when it is first wanted.

    `demand` is called for each request that could be served here, `decide` about once a second. Until the rules are
    there, both cost what a list costs.
    """

    def __init__(self, most_workers: int, usd_per_second: float, always_on: int = 0) -> None:
        self._limits = most_workers, usd_per_second, always_on
        self._heard = Heard()
        self.demand = self._heard.waiting.append
        self._rules: DemandController | None = None

    def load(self) -> DemandController:
        """The rules, with what was heard until now. A server calls this at its start, so that no request waits."""
        if self._rules is None:
            from vllm_service.routing.demand.target import DemandController  # noqa: PLC0415  the only door to numpy

            self._rules = DemandController(*self._limits, heard=self._heard)
        return self._rules

    def took(self, usd: float) -> None:
        """A worker that was asked for has taken a request that would have cost this much hosted."""
        self._heard.saved_usd += usd

    def decide(self, now: float, cold_seconds: float, idle_seconds: float, speeds: Speeds, spent_usd: float) -> int:
        """How many workers there should be; see DemandController."""
        return self.load().decide(now, cold_seconds, idle_seconds, speeds, spent_usd)

    @property
    def load_workers(self) -> float:
        """How many workers the demand keeps busy, of late."""
        return 0.0 if self._rules is None else self._rules.load

    @property
    def is_quiet(self) -> bool:
        """Whether a look each second changes nothing until a request comes."""
        return not self._heard.waiting if self._rules is None else self._rules.is_quiet
