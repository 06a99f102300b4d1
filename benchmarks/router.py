"""The router's costs on every trace, scale and scenario, and the time of a decision.

    python -m benchmarks.router [--json] [--jobs 1] [--only TEXT] [--trace NAME|FILE|FOLDER]
    python -m benchmarks.router --decisions

The sweep checks the bars of docs/routing.md ("What it has to keep"); its figures are simulations.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

from benchmarks.settings import add_traces, traces_of
from vllm_service.catalog.model import Catalog, Offer, Provider, ProviderKind, PublicModel
from vllm_service.data import Kind, shipped
from vllm_service.domain.pricing import SecondPrice, TokenPrice
from vllm_service.domain.requests import RequestFacts
from vllm_service.domain.usage import Usage
from vllm_service.routing.router import CostRouter
from vllm_service.simulation.compare import CLAIRVOYANT, NAMES, compare
from vllm_service.simulation.scenario import load_scenario
from vllm_service.simulation.trace import load_trace

SCALES = (0.1, 1.0, 10.0)
#: The least part of the hosted cost that the bound must save; below it `caught` would be noise.
LEAST_GAP = 0.15


@dataclass(frozen=True)
class Run:
    """The result of COST for one trace, scale and scenario."""

    trace: str
    scale: float
    scenario: str
    cost_usd: float
    #: The share of requests within the latency target, and the least share that is required of it.
    within_target_pct: float
    floor_pct: float
    #: The cheapest baseline that keeps the floor.
    cheapest: str
    #: COST's dollars divided by that baseline's.
    ratio: float
    all_hosted_usd: float
    #: The lower bound of the cost.
    clairvoyant_usd: float
    #: The part of the gap between all hosted and the bound that COST saves; None if the gap is too small.
    caught: float | None

    @property
    def keeps_floor(self) -> bool:
        """Returns whether COST keeps the floor."""
        return self.within_target_pct >= self.floor_pct


def one(job: tuple[Path, float, Path]) -> Run:
    """Simulates one combination with seed 0."""
    trace_path, scale, scenario_path = job
    scenario = load_scenario(scenario_path)
    results = {r.policy: r for r in compare(load_trace(trace_path).scaled(scale), scenario, 0)}
    cost, bound, hosted = results["cost"], results[CLAIRVOYANT], results["all_hosted"]
    baselines = [results[name] for name in NAMES if name not in ("cost", CLAIRVOYANT)]
    floor = min(99.0, max(result.within_target_pct for result in baselines) - 0.2)
    cheapest = min((r for r in baselines if r.within_target_pct >= floor), key=lambda result: result.usd)
    gap = hosted.usd - bound.usd
    return Run(
        trace=name_of(trace_path),
        scale=scale,
        scenario=scenario.name,
        cost_usd=cost.usd,
        within_target_pct=cost.within_target_pct,
        floor_pct=floor,
        cheapest=cheapest.policy,
        ratio=cost.usd / cheapest.usd,
        all_hosted_usd=hosted.usd,
        clairvoyant_usd=bound.usd,
        caught=(hosted.usd - cost.usd) / gap if gap >= LEAST_GAP * hosted.usd else None,
    )


def summary(runs: Sequence[Run]) -> dict[str, float | int]:
    """Returns the figures that have bars."""
    ratios = [run.ratio for run in runs]
    caught = [run.caught for run in runs if run.caught is not None]
    return {
        "count": len(runs),
        "keep_floor": sum(run.keeps_floor for run in runs),
        "ratio_at_most_1.02": sum(ratio <= 1.02 for ratio in ratios),
        "highest_ratio": max(ratios),
        "runs_with_gap": len(caught),
        "caught_mean": statistics.mean(caught) if caught else math.nan,
    }


def decisions(count: int = 200_000, *, conversations: bool = False) -> dict[str, float]:
    """Measures microseconds of CostRouter.plan with eight candidates, one of them an own endpoint with a warm worker.

    conversations: every hosted offer has a price for cached tokens, and each request continues a conversation.
    """
    names = [f"hosted-{number}" for number in range(7)]
    providers = {name: Provider(name, ProviderKind.HOSTED, f"http://{name}/v1") for name in names}
    price = SecondPrice.per_second("0.00031")
    providers["own"] = Provider("own", ProviderKind.RUNPOD, "http://own/v1", second_price=price)
    cached = [f"0.0{n + 1}" if conversations else None for n in range(7)]
    prices = [TokenPrice.per_million(f"0.{n + 1}", f"0.{n + 2}", cached[n]) for n in range(7)]
    offers = [Offer(name, "m", price) for name, price in zip(names, prices, strict=True)]
    model = PublicModel("m", (Offer("own", "m"), *offers))
    router = CostRouter(Catalog(MappingProxyType(providers), MappingProxyType({"m": model})))
    router.observe_health("own", {"workers": {"idle": 1 if conversations else 2}}, 0.0)
    taken = []
    for number in range(count):
        prefix = 1 + number % 1000 if conversations else 0
        facts = RequestFacts("m", "chat.completions", 100 + number % 5000, key_id="key", prefix=prefix)
        began = time.perf_counter_ns()
        plan = router.plan(facts, number / 1000)
        taken.append(time.perf_counter_ns() - began)
        if conversations and number % 10 == 0:
            step = plan.steps[number % len(plan.steps)]
            attempt = router.started(step, facts, number / 1000)
            attempt.succeeded(Usage(1000, 10, cached_tokens=500), number / 1000)
        if number % 1000 == 0:
            router.worker_targets(number / 1000)
    quantiles = statistics.quantiles(taken, n=100)
    return {"median_us": statistics.median(taken) / 1e3, "p99_us": quantiles[98] / 1e3}


def name_of(trace: Path) -> str:
    """Returns the file's name without its suffixes."""
    return trace.name.removesuffix(".gz").removesuffix(".csv")


def _line(run: Run) -> str:
    caught = "      -" if run.caught is None else f"{run.caught:7.1%}"
    marks = f"{'' if run.keeps_floor else ' FLOOR'}{' HIGH' if run.ratio > 1.02 else ''}"
    return (
        f"{run.trace:24} x{run.scale:<4g} {run.scenario:18} {run.cost_usd:9.3f} {run.within_target_pct:8.3f} "
        f"{run.ratio:7.3f} {run.cheapest:16} {run.all_hosted_usd:9.3f} {run.clairvoyant_usd:9.3f} {caught}{marks}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulates and prints. Returns 0 if every bar is kept, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.router",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_traces(parser)
    parser.add_argument("--only", default="", metavar="TEXT", help="only runs whose name contains this")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print every run too")
    parser.add_argument("--decisions", action="store_true", help="measure only the time of a decision")
    options = parser.parse_args(arguments)
    if options.decisions:
        taken = {"plain": decisions(), "conversations": decisions(conversations=True)}
        sys.stdout.write(json.dumps(taken) + "\n")
        return 0
    scenarios = shipped(Kind.SCENARIO).values()
    files = traces_of(parser, options)
    jobs = [(trace, scale, scenario) for trace in files for scale in SCALES for scenario in scenarios]
    jobs = [job for job in jobs if options.only in f"{name_of(job[0])} x{job[1]:g} {job[2].stem}"]
    if not jobs:
        parser.error(f"--only: no run's name contains {options.only!r}")
    runs = []
    with ProcessPoolExecutor(options.jobs) as pool:
        for run in pool.map(one, jobs):
            runs.append(run)
            sys.stderr.write(_line(run) + "\n")
    bars = summary(runs)
    sys.stdout.write(json.dumps({"runs": [asdict(run) for run in runs], **bars} if options.json else bars) + "\n")
    held = bars["keep_floor"] == len(runs) and bars["highest_ratio"] <= 1.10 and bars["caught_mean"] >= 0.6
    return 0 if held and bars["ratio_at_most_1.02"] >= 0.9 * len(runs) else 1


if __name__ == "__main__":
    sys.exit(main())
