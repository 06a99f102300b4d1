"""The potential of better wakes: COST's routing, but with workers that start and stop as if every arrival were known.

    python -m benchmarks.router_foresight [--json] [--only TEXT] [--trace NAME|FILE|FOLDER]

One worker, two, ... are first kept warm all the time, which gives what each would have saved and when. From this a
dynamic programme computes the best lifetimes of each worker (as simulation/bound/worker_lifetimes.py does for the
bound), and that schedule is replayed with the real physics. It is not a bound, because the routing could be better too.
The part of the gap between all hosted and the clairvoyant bound that it catches shows how much of COST's remaining gap
is due to the wakes, and how much to the bound being unreachable.

Beside it, computed and not replayed: the best of the router's 48 threshold rules, chosen for each run in hindsight.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.router import LEAST_GAP, SCALES, name_of
from benchmarks.settings import add_traces, traces_of
from vllm_service.data import Kind, shipped
from vllm_service.routing.demand.threshold_rules import NEVER, ThresholdRules
from vllm_service.simulation.bound.clairvoyant import clairvoyant
from vllm_service.simulation.draws import Draws
from vllm_service.simulation.endpoint import Endpoint
from vllm_service.simulation.policies.cost import OWN, CostPolicy
from vllm_service.simulation.replay import Outcome, Replay
from vllm_service.simulation.scenario import Scenario, load_scenario
from vllm_service.simulation.trace import Trace, load_trace

SLOT_SECONDS = 5.0
#: How long before its first use a worker is woken, in cold starts.
EARLY = 1.2
#: The seconds from which on the numbers of workers hold.
Targets = list[tuple[float, int]]


class Scheduled(CostPolicy):
    """COST with a given schedule of the numbers of workers, and without delay in observing them."""

    def __init__(self, targets: Targets) -> None:
        self._targets = targets

    def begin(self, replay: Replay) -> Endpoint:
        """Begins as CostPolicy does, and puts the schedule on the replay's clock."""
        endpoint = super().begin(replay)
        for at, workers in self._targets:
            replay.at(at, self._set, workers)
        return endpoint

    def _set(self, workers: int) -> None:
        self.router.endpoints[OWN].set_target(workers, self.replay.now)
        if not self._closed:
            self.replay.endpoint.set_target(workers, self.replay.now)

    def _round(self) -> None:
        """Does nothing: the schedule sets the targets."""

    def _worker_states_changed(self, now: float) -> None:
        taking = sum(not worker.draining for worker in self._workers.warm)
        self._observed({"workers": {"ready": taking, "initializing": len(self._workers.starting)}})


def best_rule_usd(scenario: Scenario, saved: list[NDArray[np.float64]]) -> float:
    """Returns what the best threshold rule in hindsight, one for all workers, saves less what its workers cost."""
    own = scenario.own
    rules = ThresholdRules(len(saved), own.usd_per_second, memory_seconds=np.inf)
    for usd in np.array(saved).T:
        rules.advance(SLOT_SECONDS, usd, own.profile.cold_start_seconds, own.profile.idle_timeout_seconds)
    bills = rules.bill.sum(axis=1)
    return float(bills[NEVER] - bills.min())


def foresight(trace: Trace, scenario: Scenario, saved: list[NDArray[np.float64]]) -> Outcome:
    """Replays the schedule that is best by what each worker would have saved in each slot."""
    own = scenario.own
    start_usd = own.usd_per_second * (own.profile.cold_start_seconds + own.profile.idle_timeout_seconds)
    alive = np.array([_best_lifetimes(each, own.usd_per_second * SLOT_SECONDS, start_usd) for each in saved])
    early = int(np.ceil(EARLY * own.profile.cold_start_seconds / SLOT_SECONDS))
    warm = alive.sum(axis=0).tolist()
    targets = [max(warm[slot : slot + early + 1]) for slot in range(len(warm))]
    changes = [(0.0, targets[0])]
    changes += [
        (slot * SLOT_SECONDS, after) for slot, (before, after) in enumerate(pairwise(targets), 1) if before != after
    ]
    return _replay(trace, scenario, changes)


def _saved(trace: Trace, scenario: Scenario, hosted_usd: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Returns the hosted dollars that each further worker saves in each slot if all of them are always warm."""
    profile = replace(scenario.own.profile, cold_start_seconds=1e-3)
    warm = replace(scenario, own=replace(scenario.own, profile=profile, cold_start_sigma=0.0))
    slots = (trace.arrival_seconds // SLOT_SECONDS).astype(np.int64)
    saved: list[NDArray[np.float64]] = []
    before: NDArray[np.float64] = np.zeros(int(slots[-1]) + 1)
    for workers in range(1, scenario.own.profile.max_workers + 1):
        own = _replay(trace, warm, [(0.0, workers)]).usd_by_request == 0.0
        taken = np.bincount(slots[own], weights=hosted_usd[own], minlength=len(before)).astype(np.float64)
        # A worker that saves less than 1 % of the traffic's price would not pay for itself.
        if saved and taken.sum() - before.sum() < 0.01 * hosted_usd.sum():
            break
        saved.append(taken - before)
        before = taken
    return saved


def _best_lifetimes(saved: NDArray[np.float64], slot_usd: float, start_usd: float) -> NDArray[np.bool_]:
    """Returns in which slots one worker should be alive: an exact dynamic programme over two states."""
    # The best balance so far, if the worker is off or on at the end of the slot.
    off = 0.0
    on = -np.inf
    starts = []
    stops = []
    for usd in saved.tolist():
        starts.append(off - start_usd > on)
        on = max(on, off - start_usd) + usd - slot_usd
        stops.append(on > off)
        off = max(on, off)
    # Backwards from the end, where the worker is off: each recorded choice gives the state of the slot before.
    alive = np.zeros(len(saved), bool)
    is_on = False
    for slot in range(len(saved) - 1, -1, -1):
        is_on = is_on or stops[slot]
        alive[slot] = is_on
        is_on = is_on and not starts[slot]
    return alive


def _replay(trace: Trace, scenario: Scenario, targets: Targets) -> Outcome:
    return Replay(trace, scenario, Draws(scenario, len(trace), 0), Scheduled(targets)).run()


def one(trace_path: Path, scale: float, scenario_path: Path) -> dict[str, object] | None:
    """Returns the figures of one run; None if the gap between all hosted and the bound is too small."""
    trace = load_trace(trace_path).scaled(scale)
    scenario = load_scenario(scenario_path)
    hosted = _replay(trace, scenario, [])
    bound = clairvoyant(trace, scenario, Draws(scenario, len(trace), 0)).usd
    gap = hosted.usd - bound
    if gap < LEAST_GAP * hosted.usd:
        return None
    saved = _saved(trace, scenario, hosted.usd_by_request)
    foreseen = foresight(trace, scenario, saved)
    return {
        "run": f"{name_of(trace_path)} x{scale:g} {scenario.name}",
        "usd": foreseen.usd,
        "within_target_pct": foreseen.within_target_pct,
        "caught": (hosted.usd - foreseen.usd) / gap,
        "best_rule_caught": best_rule_usd(scenario, saved) / gap,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the means, and on stderr each run with a gap: dollars, % in time, caught, caught by the best rule."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.router_foresight",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_traces(parser)
    parser.add_argument("--only", default="", metavar="TEXT", help="only runs whose name contains this")
    parser.add_argument("--json", action="store_true", help="print every run too")
    options = parser.parse_args(arguments)
    rows = []
    for path in traces_of(parser, options):
        for scale in SCALES:
            for scenario in shipped(Kind.SCENARIO).values():
                named = options.only in f"{name_of(path)} x{scale:g} {scenario.stem}"
                if named and (row := one(path, scale, scenario)) is not None:
                    rows.append(row)
                    sys.stderr.write(
                        f"{row['run']:50} {row['usd']:9.3f} {row['within_target_pct']:8.3f} {row['caught']:7.1%}"
                        f" {row['best_rule_caught']:7.1%}\n"
                    )
    means = {
        f"{name}_mean": statistics.mean(float(str(row[name])) for row in rows) if rows else None
        for name in ("caught", "best_rule_caught")
    }
    sys.stdout.write(json.dumps({"runs": rows, **means} if options.json else means) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
