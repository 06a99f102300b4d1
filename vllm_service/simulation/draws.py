"""Every random number of a run, drawn before it and common to all policies, so that only decisions differ."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vllm_service.simulation.scenario import Scenario

#: Starts beyond so many repeat the draws in the same order.
_COLD_STARTS = 4096


class Draws:
    """The random numbers of one run."""

    def __init__(self, scenario: Scenario, requests: int, seed: int) -> None:
        # The order of these draws is part of every published figure: a new kind of draw goes last.
        random = np.random.default_rng(seed)
        own = scenario.own
        # Lognormal: the profile's cold start is the median.
        normal = random.standard_normal(_COLD_STARTS)
        self.cold_starts: NDArray[np.float64] = own.profile.cold_start_seconds * np.exp(own.cold_start_sigma * normal)
        #: [request, provider]: whether the first attempt there gets a 429.
        self.rejected: NDArray[np.bool_] = random.random((requests, len(scenario.hosted))) < scenario.rejection_rate
        #: A uniform number per request, for policies that choose at random.
        self.choice: NDArray[np.float64] = random.random(requests)

    def cold_seconds(self, start: int) -> float:
        """Returns how long the start of this number takes; after 4096 starts the draws repeat."""
        return float(self.cold_starts[start % _COLD_STARTS])
