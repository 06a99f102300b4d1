"""Decides how many workers an endpoint should have: as many as the rule has that would have cost least so far.

Several rules are played on paper (threshold_rules.py); per worker k, the endpoint follows the one with the smallest
bill. What worker k would have saved is measured: what k always-warm workers would have taken of the real arrivals, less
what k - 1 would have (counterfactual.py). The rules go on being played, because which thresholds pay depends on whether
bursts end before a cold start does, and the traffic shows that within a few episodes. What may be lost by waking is
bounded here.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from vllm_service.routing.demand.counterfactual import CounterfactualWorkers, Demand, DemandLog, Speeds
from vllm_service.routing.demand.isotonic import isotonic_decreasing
from vllm_service.routing.demand.organisations import Organisations
from vllm_service.routing.demand.threshold_rules import FIRST_RULE, NEVER, OFF, ThresholdRules
from vllm_service.routing.profiles import ORGANISATION_SHARE

Floats = NDArray[np.float64]

#: A wake is affordable while the loss, this start included, stays under this share of the hosted bill.
LOSS_SHARE = 0.01
#: The same where the worker's rule has paid on paper. Both stay under the 2 % that docs/routing.md allows a run.
_PAYING_LOSS_SHARE = 0.018
#: The span over which the load is averaged.
_LOAD_SECONDS = 20.0
#: In starts: a rule is left only for one that is better by this much. Without it, following the best of many rules is a
#: winner's curse that lost 3-40 % on the traces (docs/routing.md, pitfalls).
_BETTER = 1.0
#: In starts: savings without a worker that make it evident that one pays.
_EVIDENT = 2.0
#: In cold starts: how long these savings must have gone on. A burst that is over by then is no evidence.
_EVIDENT_AGE = 0.5
#: Each dollar lost before requires this many dollars more of evidence, so a loss never rules out waking for ever.
_LOSSES_WEIGH = 2.0
#: What is lost and committed stays under this share of the hosted bill, however many workers are evident at once.
_EXPOSED_SHARE = 0.1
#: The span over which a worker's savings are averaged, because one long prompt can be worth a start.
_SMOOTHING_SECONDS = 10.0
#: The span over which the rules' bills are compared.
_BILL_MEMORY_SECONDS = 4 * 3600.0


class DemandController:
    """Decides for one endpoint. `demand` is called for each request, `decide` about once a second.

    Workers that are always on are paid whatever is decided here, so they have no rule: the arrays hold the others, each
    of which has to earn its keep with what the always-on workers would leave.
    """

    def __init__(
        self,
        most_workers: int,
        usd_per_second: float,
        always_on: int = 0,
        *,
        log: DemandLog | None = None,
        organisation_share: float = ORGANISATION_SHARE,
    ) -> None:
        workers = most_workers - always_on
        self._organisations = Organisations(workers, organisation_share)
        self._usd_per_second = usd_per_second
        self._always_on = always_on
        self._rules = ThresholdRules(workers, usd_per_second, memory_seconds=_BILL_MEMORY_SECONDS)
        #: One more than there are workers: worker k's savings are the difference between two neighbours.
        self._counterfactuals = [CounterfactualWorkers(count) for count in range(always_on, most_workers + 1)]
        #: The number of the rule that each worker follows.
        self._chosen_rule = np.full(workers, FIRST_RULE)
        self._numbers = np.arange(workers)
        self._log = log or DemandLog()
        self.demand = self._log.requests.append  # called for each request that could be served here
        self._decided_at: float | None = None
        self._on = np.zeros(workers, bool)
        #: Measured savings of each worker that the smoothing still holds back.
        self._unreleased_usd: Floats = np.zeros(workers)
        #: What hosted offers would have taken for all requests that could be served here, since the beginning.
        self._offered_usd = 0.0
        #: What the woken workers cost more than they saved, beyond LOSS_SHARE, as it counts for evidence.
        self._lost_usd = 0.0
        #: What is still to be paid of each worker's start; it may be lost if the traffic ends now.
        self._committed_usd: Floats = np.zeros(workers)
        #: What each worker that is off would have earned by now: its regret, with the real traffic.
        self._evidence_usd: Floats = np.zeros(workers)
        self._evident_seconds: Floats = np.zeros(workers)
        #: How many workers reading the prompts keeps busy, averaged over _LOAD_SECONDS.
        self.load = 0.0

    def decide(self, now: float, cold_seconds: float, idle_seconds: float, speeds: Speeds, spent_usd: float) -> int:
        """Returns how many workers there should be, always-on ones included. spent_usd: for the others, so far."""
        seconds = 1.0 if self._decided_at is None else now - self._decided_at
        if seconds <= 0.0:
            return self.wanted()
        self._decided_at = now
        start_usd = self._usd_per_second * (cold_seconds + idle_seconds)
        saved = self._offer_to_counterfactuals(seconds, speeds, start_usd)
        self._rules.advance(seconds, saved, cold_seconds, idle_seconds)
        self._choose_rules(cold_seconds + idle_seconds)
        self._weigh(saved, seconds)
        self._follow_rules(spent_usd, start_usd, self._evident(spent_usd, start_usd, cold_seconds))
        return self.wanted()

    def wanted(self) -> int:
        """Returns how many workers are on, counted from the first; a gap ends the count.

        A worker saves no more than the one before it, so one that is on beyond a gap would do the missing one's work.
        """
        return self._always_on + int(len(self._on) if self._on.all() else np.argmin(self._on))

    def set_price(self, usd_per_second: float) -> None:
        """Sets what a second of one worker costs; bills and evidence so far stay."""
        self._usd_per_second = usd_per_second
        self._rules.set_price(usd_per_second)

    @property
    def is_quiet(self) -> bool:
        """True while nothing is on and nothing speaks for a worker: no decision changes that until a request comes."""
        coming_usd = float(self._unreleased_usd.max(initial=0.0)) / _SMOOTHING_SECONDS
        return not (self._on.any() or self._evidence_usd.any() or coming_usd > self._usd_per_second)

    def took(self, usd: float) -> None:
        """Books that a woken worker has taken a request that would have cost this much at a hosted offer."""
        self._log.saved_usd += usd

    def _weigh(self, saved: Floats, seconds: float) -> None:
        """Updates the evidence for each worker that is off, and what those that are on have still to pay."""
        evidence = np.maximum(0.0, self._evidence_usd + saved - self._usd_per_second * seconds)
        self._evidence_usd = np.where(self._on, 0.0, evidence)
        self._evident_seconds = np.where(self._evidence_usd > 0.0, self._evident_seconds + seconds, 0.0)
        committed = np.maximum(0.0, self._committed_usd - self._usd_per_second * seconds)
        self._committed_usd = np.where(self._on, committed, 0.0)

    def _evident(self, spent_usd: float, start_usd: float, cold_seconds: float) -> NDArray[np.bool_]:
        """Returns which workers pay beyond doubt. Earlier losses make doubt: they add up, however long the silence.

        A running worker may still make its losses good, so until it has stopped only those before it count.
        """
        lost = max(0.0, spent_usd - self._log.saved_usd - LOSS_SHARE * self._offered_usd)
        self._lost_usd = min(lost, self._lost_usd) if self._on.any() else lost
        enough = _EVIDENT * start_usd + _LOSSES_WEIGH * self._lost_usd
        return (self._evidence_usd >= enough) & (self._evident_seconds >= _EVIDENT_AGE * cold_seconds)

    def _follow_rules(self, spent_usd: float, start_usd: float, evident: NDArray[np.bool_]) -> None:
        """Switches workers as their rules have them; a new one only where it is evident or affordable.

        After the first one, what is lost and committed stays under a tenth of what hosted offers alone would have cost:
        when many workers are evident at once, it may be a burst that ends before they are warm.
        """
        ruled = self._rules.state[self._chosen_rule, self._numbers] != OFF
        bill = self._rules.bill
        # A rule counts as having paid on paper when it is more than two starts ahead of having no worker.
        pays = bill[NEVER] - bill[self._chosen_rule, self._numbers] > 2.0 * start_usd
        self._on &= ruled
        loss_usd = spent_usd - self._log.saved_usd + start_usd
        # At least one start, or the first worker could never be woken.
        most_exposed = max(_EXPOSED_SHARE * self._offered_usd, start_usd)
        for number in np.flatnonzero(ruled & ~self._on):
            exposed = loss_usd + float(self._committed_usd.sum())
            limit = (_PAYING_LOSS_SHARE if pays[number] else LOSS_SHARE) * self._offered_usd
            if (evident[number] and exposed <= most_exposed) or loss_usd <= limit:
                self._on[number] = True
                self._committed_usd[number] = start_usd

    def _take_back(self, now: float) -> None:
        """Takes back what earlier decisions have counted of requests that came to nothing."""
        ended = list(self._log.ended)
        self._log.ended.clear()
        self._organisations.take(ended, now)
        for demand in ended:
            if demand.is_withdrawn and demand.taken_usd is not None:
                self._offered_usd -= demand.hosted_usd
                # What was released already is made good by what comes next.
                self._unreleased_usd[: len(demand.taken_usd) - 1] -= np.diff(demand.taken_usd)

    def _offer(
        self, demand: Demand, speeds: Speeds, counterfactuals: list[CounterfactualWorkers], start: float
    ) -> float:
        """Offers a request to the workers on paper, up to as many as its organisation may want. Returns its reading."""
        organisation = demand.organisation
        request = speeds.request_of(demand)
        most = self._organisations.most_workers(organisation, start)
        weight = self._organisations.weight(organisation, start)
        if weight < 1.0:
            request = request._replace(usd=request.usd * weight)
        taken = 0.0
        demand.taken_usd = []
        for number, workers in enumerate(counterfactuals):
            if number <= most:
                taken = request.usd if workers.offer(request, speeds) else 0.0
            else:  # as much as those have taken that it may want: no further worker saves anything of it
                workers.usd += taken
            demand.taken_usd.append(taken)
        return request.reading_seconds

    def _offer_to_counterfactuals(self, seconds: float, speeds: Speeds, start_usd: float) -> Floats:
        """Returns what the first, the second, ... worker would have saved since the last decision."""
        self._take_back(self._decided_at or 0.0)
        offered = [demand for demand in self._log.requests if not demand.is_withdrawn]
        self._log.requests.clear()
        self._offered_usd += sum(demand.hosted_usd for demand in offered)
        reading = 0.0
        # Far more workers than the load keeps busy would save nothing: they are not computed.
        counterfactuals = self._counterfactuals[: int(3.0 * self.load) + 4]
        for workers in counterfactuals:
            workers.usd = 0.0
        for demand in offered:
            reading += self._offer(demand, speeds, counterfactuals, start_usd)
        keep = math.exp(-seconds / _LOAD_SECONDS)
        self.load = max(self.load * keep + reading * (1.0 - keep) / seconds, self.load * keep)
        # k and k + 1 workers take different requests of a burst: their difference is noise until it is averaged.
        # Clipping it at zero instead counts only the noise's upper half; it made ten workers come and go.
        self._unreleased_usd[: len(counterfactuals) - 1] += np.diff([workers.usd for workers in counterfactuals])
        released = self._unreleased_usd * (1.0 - math.exp(-seconds / _SMOOTHING_SECONDS))
        self._unreleased_usd -= released
        return np.array(isotonic_decreasing(released.tolist()))

    def _choose_rules(self, start_seconds: float) -> None:
        """Changes rules only for one that is better by what a start costs: each change may cost one.

        A worker that is on stays with a rule that has it on, because its start is paid for, whichever rule was right.
        """
        bill = self._rules.bill
        numbers = self._numbers
        best = bill.argmin(axis=0)
        gain = bill[self._chosen_rule, numbers] - bill[best, numbers]
        keeps = ~self._on | (self._rules.state[best, numbers] != OFF)
        is_better = gain > _BETTER * self._usd_per_second * start_seconds
        self._chosen_rule = np.where(keeps & is_better, best, self._chosen_rule)
