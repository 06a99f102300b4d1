"""How many workers an endpoint should have: as many as the rules say that would have cost least so far, within limits.

Several rules are played on paper (paper_workers.py); per worker k, the endpoint follows the one with the smallest bill.
The h of worker k is measured on paper too: what k always-warm workers would have taken of the real arrivals, less what
k - 1 would have (shadow.py). Rules are not played once: which thresholds pay depends on whether bursts end before a
cold start does, and the traffic says so within a few episodes. What may be lost by waking is bounded here.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from vllm_service.routing.demand.counterfactual import CounterfactualWorkers, Heard, Speeds
from vllm_service.routing.demand.isotonic import isotonic_decreasing
from vllm_service.routing.demand.threshold_rules import FIRST_RULE, NEVER, OFF, ThresholdRules

Floats = NDArray[np.float64]

RED_SHARE, _PAYING_RED_SHARE = 0.01, 0.018
_LOAD_SECONDS = 20.0
_BETTER = 1.0
_EVIDENT, _EVIDENT_AGE, _LOSSES_WEIGH = 2.0, 0.5, 2.0
_EXPOSED_SHARE = 0.1
_SMOOTHING_SECONDS = 10.0


class DemandController:
    """For one endpoint. `demand` is called for each request, `decide` about once a second.

    most_workers: that there may be. always_on: of them, paid whatever is decided; the rest have to earn their keep with
    what these would leave. heard: what was noted down so far, where another object goes on doing so.
    """

    def __init__(
        self,
        most_workers: int,
        usd_per_second: float,
        always_on: int = 0,
        *,
        heard: Heard | None = None,
    ) -> None:
        workers = most_workers - always_on
        self._usd_per_second, self._always_on = usd_per_second, always_on
        self._paper = ThresholdRules(workers, usd_per_second, memory_seconds=4 * 3600.0)
        self._shadows = [CounterfactualWorkers(count) for count in range(always_on, most_workers + 1)]
        self._rule = np.full(workers, FIRST_RULE)
        self._numbers = np.arange(workers)
        self._heard = heard or Heard()
        self.demand = self._heard.waiting.append  # called for each request that could be served here
        self._looked_at: float | None = None
        self._on = np.zeros(workers, bool)
        self._unreleased: Floats = np.zeros(workers)
        self._offered_usd = 0.0
        self._lost_usd = 0.0
        self._committed_usd: Floats = np.zeros(workers)  # of what their starts cost, still to be paid
        self._evidence_usd: Floats = np.zeros(workers)
        self._evident_seconds: Floats = np.zeros(workers)
        self.load = 0.0

    def decide(self, now: float, cold_seconds: float, idle_seconds: float, speeds: Speeds, spent_usd: float) -> int:
        """How many workers there should be, with those that are always on. spent_usd: for the others, so far."""
        seconds = 1.0 if self._looked_at is None else now - self._looked_at
        if seconds <= 0.0:
            return self.wanted()
        self._looked_at = now
        saved = self._offer_to_shadows(seconds, speeds)
        self._paper.advance(seconds, saved, cold_seconds, idle_seconds)
        self._choose(cold_seconds + idle_seconds)
        self._weigh(saved, seconds)
        whole_usd = self._usd_per_second * (cold_seconds + idle_seconds)
        self._follow(spent_usd, whole_usd, self._evident(spent_usd, whole_usd, cold_seconds))
        return self.wanted()

    def wanted(self) -> int:
        """Workers that are on, counted from the first; a gap ends the count."""
        return self._always_on + int(len(self._on) if self._on.all() else np.argmin(self._on))

    @property
    def is_quiet(self) -> bool:
        """Nothing is on and nothing speaks for a worker: until a request comes, a look each second changes nothing."""
        coming_usd = float(self._unreleased.max(initial=0.0)) / _SMOOTHING_SECONDS
        return not (self._on.any() or self._evidence_usd.any() or coming_usd > self._usd_per_second)

    def took(self, usd: float) -> None:
        """A worker that was asked for has taken a request that would have cost this much hosted."""
        self._heard.saved_usd += usd

    def _weigh(self, saved: Floats, seconds: float) -> None:
        """What each worker that is off would have earned by now, and for how long; what those on have still to pay."""
        evidence = np.maximum(0.0, self._evidence_usd + saved - self._usd_per_second * seconds)
        self._evidence_usd = np.where(self._on, 0.0, evidence)
        self._evident_seconds = np.where(self._evidence_usd > 0.0, self._evident_seconds + seconds, 0.0)
        committed = np.maximum(0.0, self._committed_usd - self._usd_per_second * seconds)
        self._committed_usd = np.where(self._on, committed, 0.0)

    def _evident(self, spent_usd: float, whole_usd: float, cold_seconds: float) -> NDArray[np.bool_]:
        """Workers that pay beyond doubt. What was lost before makes doubt: losses add up, however long the silence.

        Losses of a living worker may still be made good: until it is gone, only those before it count.
        """
        lost = max(0.0, spent_usd - self._heard.saved_usd - RED_SHARE * self._offered_usd)
        self._lost_usd = min(lost, self._lost_usd) if self._on.any() else lost
        enough = _EVIDENT * whole_usd + _LOSSES_WEIGH * self._lost_usd
        return (self._evidence_usd >= enough) & (self._evident_seconds >= _EVIDENT_AGE * cold_seconds)

    def _follow(self, spent_usd: float, whole_usd: float, evident: NDArray[np.bool_]) -> None:
        """Workers as their rules have them; a new one only where it has paid on paper, is evident, or is affordable.

        After the first one, what is lost and committed stays under a tenth of what hosted providers alone would have
        cost: when many workers are evident at once, it may be a burst that ends before they are warm.
        """
        ruled = self._paper.state[self._rule, self._numbers] != OFF
        bill = self._paper.bill
        pays = bill[NEVER] - bill[self._rule, self._numbers] > 2.0 * whole_usd
        self._on &= ruled
        red = spent_usd - self._heard.saved_usd + whole_usd
        most_exposed = max(_EXPOSED_SHARE * self._offered_usd, whole_usd)
        for number in np.flatnonzero(ruled & ~self._on):
            exposed = red + float(self._committed_usd.sum())
            limit = (_PAYING_RED_SHARE if pays[number] else RED_SHARE) * self._offered_usd
            if (evident[number] and exposed <= most_exposed) or red <= limit:
                self._on[number] = True
                self._committed_usd[number] = whole_usd

    def _offer_to_shadows(self, seconds: float, speeds: Speeds) -> Floats:
        """What the first, the second, ... worker would have saved since the last look."""
        offered = [speeds.offered(demand) for demand in self._heard.waiting]
        self._heard.waiting.clear()
        self._offered_usd += sum(request.usd for request in offered)
        reading = 0.0
        shadows = self._shadows[: int(3.0 * self.load) + 4]
        for shadow in shadows:
            shadow.usd = 0.0
        for request in offered:
            reading += request.reading_seconds
            for shadow in shadows:
                shadow.offer(request, speeds)
        keep = math.exp(-seconds / _LOAD_SECONDS)
        self.load = max(self.load * keep + reading * (1.0 - keep) / seconds, self.load * keep)
        # Two shadows take different requests of a burst; what the one has more than the other is noise until averaged.
        self._unreleased[: len(shadows) - 1] += np.diff([shadow.usd for shadow in shadows])
        released = self._unreleased * (1.0 - math.exp(-seconds / _SMOOTHING_SECONDS))
        self._unreleased -= released
        return np.array(isotonic_decreasing(released.tolist()))

    def _choose(self, whole_seconds: float) -> None:
        """Changes rules only for one that is better by what a start costs: each change may cost one.

        A worker that is on stays with a rule that has it on: what its start has cost is spent, whoever was right.
        """
        bill, numbers = self._paper.bill, self._numbers
        best = bill.argmin(axis=0)
        gain = bill[self._rule, numbers] - bill[best, numbers]
        keeps = ~self._on | (self._paper.state[best, numbers] != OFF)
        self._rule = np.where(keeps & (gain > _BETTER * self._usd_per_second * whole_seconds), best, self._rule)
