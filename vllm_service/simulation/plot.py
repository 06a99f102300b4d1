"""Draws a run over time: how much traffic, how many workers, and what each policy had cost by then."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vllm_service.simulation.compare import CLAIRVOYANT, Result
from vllm_service.simulation.replay import Outcome
from vllm_service.simulation.scenario import Scenario
from vllm_service.simulation.trace import Trace

Floats = NDArray[np.float64]

_POINTS = 600
_COLOURS = {
    "cost": "#1f77b4",
    "all_hosted": "#ff7f0e",
    "all_own": "#2ca02c",
    "split_80_20": "#d62728",
    "nominal_fallback": "#9467bd",
    "latency": "#8c564b",
    "active_spill": "#e377c2",
}


def draw(path: Path, trace: Trace, scenario: Scenario, results: Sequence[Result], title: str) -> None:
    """Writes a PNG, or what the suffix names. Raises ModuleNotFoundError without matplotlib (the extra `plots`)."""
    import matplotlib as mpl  # noqa: PLC0415  # an optional dependency

    mpl.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    ends = [end for result in results if result.outcome for _, end in result.outcome.lifetimes]
    last = max([float(trace.arrival_seconds[-1]), *ends])
    edges = np.linspace(0.0, last, _POINTS + 1)
    unit, divisor = ("hours", 3600.0) if last > 2 * 3600 else ("minutes", 60.0)
    figure, (traffic, workers, money) = pyplot.subplots(3, 1, figsize=(11, 9), sharex=True, layout="constrained")
    counts, _ = np.histogram(trace.arrival_seconds, edges)
    traffic.fill_between(edges[:-1] / divisor, counts / np.diff(edges), step="post", color="#7a8699", linewidth=0)
    traffic.set_ylabel("requests per second")
    traffic.set_title(title)
    for result in results:
        if result.outcome is None:
            money.axhline(result.usd, color="black", linestyle=":", label=f"{CLAIRVOYANT} bound, whole trace")
            continue
        strong: dict[str, float | str] = (
            {"linewidth": 2.4, "zorder": 5} if result.policy == "cost" else {"linewidth": 1.1, "alpha": 0.8}
        )
        strong["color"] = _COLOURS[result.policy]
        money.plot(edges / divisor, _spent(result.outcome, trace, scenario, edges), label=result.policy, **strong)
        if result.outcome.lifetimes and result.policy in ("cost", "active_spill", "all_own"):
            alive = _alive(result.outcome, edges)
            workers.plot(edges / divisor, alive, drawstyle="steps-post", label=result.policy, **strong)
    workers.set_ylabel("billed workers")
    money.set_ylabel("USD so far")
    money.set_xlabel(unit)
    money.set_ylim(bottom=0)
    for axes in (workers, money):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="upper left", fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _spent(outcome: Outcome, trace: Trace, scenario: Scenario, times: Floats) -> Floats:
    so_far = np.concatenate(([0.0], np.cumsum(outcome.usd_by_request)))
    hosted = so_far[np.searchsorted(trace.arrival_seconds, times, side="right")]
    own = np.zeros(len(times))
    for begun, ended in outcome.lifetimes:
        own += np.clip(times, begun, ended) - begun
    spent: Floats = hosted + own * scenario.own.usd_per_second
    return spent


def _alive(outcome: Outcome, times: Floats) -> Floats:
    alive = np.zeros(len(times))
    for begun, ended in outcome.lifetimes:
        alive += (times >= begun) & (times < ended)
    return alive
