"""The plot of a run over time: traffic, workers and dollars, measured and simulated."""

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
_MEASURED = "#d62728"
_SIMULATED = "#1f77b4"


def draw(path: Path, run: Run) -> None:
    """Writes a PNG."""
    trace = run.played.trace
    price = run.scenario.own.usd_per_second
    sides = {
        "measured": (run.played.bills.lifetimes, _spent_on_hosted(run), _MEASURED),
        "simulated": (run.outcome.lifetimes, run.outcome.usd_by_request, _SIMULATED),
    }
    ends = (end for lifetimes, _, _ in sides.values() for _, end in lifetimes)
    last = max([float(trace.arrival_seconds[-1]), *ends]) + 5.0
    times = np.linspace(0.0, last, 1200)
    figure, (traffic, workers, money) = pyplot.subplots(3, 1, figsize=(11, 9), sharex=True, layout="constrained")
    counts, edges = np.histogram(trace.arrival_seconds, np.arange(0.0, last + 5.0, 5.0))
    traffic.stairs(counts / 5.0, edges, fill=True, color="#7a8699")
    traffic.set_ylabel("requests per second")
    for number, (name, (lifetimes, hosted_usd, colour)) in enumerate(sides.items()):
        alive = _alive(lifetimes, times) + 0.03 * number  # a little apart, so that both lines can be seen
        workers.plot(times, alive, drawstyle="steps-post", label=name, color=colour)
        so_far = np.concatenate(([0.0], np.cumsum(hosted_usd)))
        hosted = so_far[np.searchsorted(trace.arrival_seconds, times, side="right")]
        own = sum((np.clip(times, begun, ended) - begun for begun, ended in lifetimes), np.zeros(len(times))) * price
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
    """Returns the dollars that each request of the trace cost at a hosted provider."""
    providers = {provider.name: provider for provider in HOSTED}
    spent = []
    for answer in run.played.answers[: len(run.played.trace)]:
        provider = None if answer.provider == OWN else providers.get(answer.provider)
        input_usd = 0.0 if provider is None else float(provider.input_usd)
        output_usd = 0.0 if provider is None else float(provider.output_usd)
        spent.append((answer.prompt_tokens * input_usd + answer.completion_tokens * output_usd) / 1e6)
    return np.array(spent)


def _alive(lifetimes: list[tuple[float, float]], times: Floats) -> Floats:
    alive = np.zeros(len(times))
    for begun, ended in lifetimes:
        alive += (times >= begun) & (times < ended)
    return alive
