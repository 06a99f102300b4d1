"""Every random number of a run, drawn before it and common to all policies, so that only decisions differ."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vllm_service.simulation.scenario import Scenario

_COLD_STARTS = 4096


class Draws:
    """rejected[request, provider]: a 429 on the first attempt there. Start k of a run takes `cold_seconds(k)`."""

    def __init__(self, scenario: Scenario, requests: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        own = scenario.own
        normal = random.standard_normal(_COLD_STARTS)
        self.cold_starts: NDArray[np.float64] = own.profile.cold_start_seconds * np.exp(own.cold_start_sigma * normal)
        self.rejected: NDArray[np.bool_] = random.random((requests, len(scenario.hosted))) < scenario.rejection_rate
        self.choice: NDArray[np.float64] = random.random(requests)

    def cold_seconds(self, start: int) -> float:
        """How long the start of this number takes; after 4096 starts the draws repeat."""
        return float(self.cold_starts[start % _COLD_STARTS])
