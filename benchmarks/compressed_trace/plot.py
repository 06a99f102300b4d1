"""The run over time: traffic, workers, dollars; measured and simulated."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from benchmarks.compressed_trace.run import Run
from benchmarks.compressed_trace.stage import HOSTED, OWN

mpl.use("Agg")

from matplotlib import pyplot  # its backend is chosen first

Floats = NDArray[np.float64]
_MEASURED, _SIMULATED = "#d62728", "#1f77b4"


def draw(path: Path, run: Run) -> None:
    """Writes a PNG."""
    trace, price = run.played.trace, run.scenario.own.usd_per_second
    sides = {
        "measured": (run.played.bills.lives, _spent_on_hosted(run), _MEASURED),
        "simulated": (run.outcome.lifetimes, run.outcome.usd_by_request, _SIMULATED),
    }
    last = max([float(trace.arrival_seconds[-1]), *(end for lives, _, _ in sides.values() for _, end in lives)]) + 5.0
    times = np.linspace(0.0, last, 1200)
    figure, (traffic, workers, money) = pyplot.subplots(3, 1, figsize=(11, 9), sharex=True, layout="constrained")
    counts, edges = np.histogram(trace.arrival_seconds, np.arange(0.0, last + 5.0, 5.0))
    traffic.stairs(counts / 5.0, edges, fill=True, color="#7a8699")
    traffic.set_ylabel("requests per second")
    for number, (name, (lives, hosted_usd, colour)) in enumerate(sides.items()):
        workers.plot(times, _alive(lives, times) + 0.03 * number, drawstyle="steps-post", label=name, color=colour)
        so_far = np.concatenate(([0.0], np.cumsum(hosted_usd)))
        hosted = so_far[np.searchsorted(trace.arrival_seconds, times, side="right")]
        own = sum((np.clip(times, begun, ended) - begun for begun, ended in lives), np.zeros(len(times))) * price
        money.plot(times, hosted + own, label=f"{name}: all", color=colour, linewidth=2)
        money.plot(times, own, label=f"{name}: own workers", color=colour, linestyle=":")
    workers.set_ylabel("billed workers")
    money.set_ylabel("USD so far")
    money.set_xlabel("seconds")
    for axes in (workers, money):
        axes.legend(loc="upper left", fontsize=8)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def _spent_on_hosted(run: Run) -> Floats:
    """By each request of the trace."""
    prices = {place.name: place for place in HOSTED}
    spent = []
    for answer in run.played.answers[: len(run.played.trace)]:
        place = None if answer.provider == OWN else prices.get(answer.provider)
        input_usd, output_usd = (0.0, 0.0) if place is None else (float(place.input_usd), float(place.output_usd))
        spent.append((answer.prompt_tokens * input_usd + answer.completion_tokens * output_usd) / 1e6)
    return np.array(spent)


def _alive(lives: list[tuple[float, float]], times: Floats) -> Floats:
    alive = np.zeros(len(times))
    for begun, ended in lives:
        alive += (times >= begun) & (times < ended)
    return alive
