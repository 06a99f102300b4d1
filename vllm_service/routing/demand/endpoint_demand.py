"""Logs the demand for an own endpoint; the rules that turn it into a number of workers are loaded when first needed.

The rules need numpy, which takes longer to import than the rest of the router. Routing alone needs no rules: a client
whose providers are all hosted, or a command that only reads a configuration, never loads them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_service.routing.demand.counterfactual import DemandLog, Speeds
from vllm_service.routing.profiles import ORGANISATION_SHARE

if TYPE_CHECKING:
    from vllm_service.routing.demand.target import DemandController


class EndpointDemand:
    """One endpoint's demand: a target.DemandController that is made by `load`, or when a decision first needs it.

    `demand` is called for each request that the endpoint could serve, `decide` about once a second. Until the rules are
    loaded, `demand` costs what appending to a list costs.
    """

    def __init__(
        self,
        most_workers: int,
        usd_per_second: float,
        always_on: int = 0,
        organisation_share: float = ORGANISATION_SHARE,
    ) -> None:
        self._limits = most_workers, usd_per_second, always_on
        self._share = organisation_share
        #: Of demand and its ends.
        self.log = self._log = DemandLog()
        # The bound method itself: this is the hot path, and a method of our own around it would be one more call.
        self.demand = self._log.requests.append
        self._rules: DemandController | None = None

    def load(self) -> DemandController:
        """Returns the rules, with what was logged so far. A server loads them at its start, so no request waits."""
        if self._rules is None:
            from vllm_service.routing.demand.target import DemandController  # noqa: PLC0415  the only door to numpy

            self._rules = DemandController(*self._limits, log=self._log, organisation_share=self._share)
        return self._rules

    def set_price(self, usd_per_second: float) -> None:
        """Sets what a second of one worker costs from now on."""
        most_workers, before, always_on = self._limits
        if usd_per_second != before:
            self._limits = most_workers, usd_per_second, always_on
            if self._rules is not None:
                self._rules.set_price(usd_per_second)

    def took(self, usd: float) -> None:
        """Books that a woken worker has taken a request that would have cost this much at a hosted offer."""
        self._log.saved_usd += usd

    def decide(self, now: float, cold_seconds: float, idle_seconds: float, speeds: Speeds, spent_usd: float) -> int:
        """Returns how many workers there should be; see DemandController."""
        return self.load().decide(now, cold_seconds, idle_seconds, speeds, spent_usd)

    @property
    def load_workers(self) -> float:
        """How many workers the recent demand keeps busy."""
        return 0.0 if self._rules is None else self._rules.load

    @property
    def is_quiet(self) -> bool:
        """True while a decision each second changes nothing until a request comes."""
        return not self._log.requests if self._rules is None else self._rules.is_quiet
