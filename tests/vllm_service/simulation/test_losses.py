"""What COST may lose by waking, and that a loss does not keep it from what pays."""

from __future__ import annotations

import numpy as np

from vllm_service.data import FOLDER, Kind
from vllm_service.simulation.compare import compare
from vllm_service.simulation.scenario import load_scenario
from vllm_service.simulation.trace import Trace

SCENARIOS = FOLDER / Kind.SCENARIO


def arrivals(*parts: tuple[float, float, int]) -> Trace:
    """From a second on, for so many seconds, so many requests of 700 and 150 tokens."""
    random = np.random.default_rng(5)
    at = np.sort(np.concatenate([begins + random.uniform(0, lasts, count) for begins, lasts, count in parts]))
    return Trace(at, np.full(len(at), 700.0), np.full(len(at), 150.0))


def test_a_spike_that_ends_before_workers_are_warm_wakes_one_of_them() -> None:
    """Ten would have paid beyond doubt at one moment; beyond the first, a tenth of the hosted bill is the limit."""
    spike = arrivals((0, 9000, 1800), (4000, 120, 4000))
    hosted, cost = compare(spike, load_scenario(SCENARIOS / "120b-h100.yaml"), 0, ["all_hosted", "cost"])
    assert cost.starts == 1
    assert cost.usd <= 1.15 * hosted.usd


def test_a_start_that_was_lost_does_not_keep_workers_from_lasting_demand() -> None:
    """The burst costs a start, more than 1 % of the little that had been spent; then an hour pays for a worker."""
    scenario = load_scenario(SCENARIOS / "8b-4090-gpt4omini.yaml")
    burst, lasting = (0.0, 30.0, 600), (4000.0, 3600.0, 4 * 3600)
    (lost,) = compare(arrivals(burst), scenario, 0, ["cost"])
    assert lost.starts >= 1
    hosted, cost = compare(arrivals(burst, lasting), scenario, 0, ["all_hosted", "cost"])
    assert cost.usd < 0.6 * hosted.usd
