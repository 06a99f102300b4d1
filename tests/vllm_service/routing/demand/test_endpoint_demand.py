"""The rules of demand decide as if they had been there from the first request on, and are loaded only when wanted."""

from __future__ import annotations

import subprocess
import sys

from vllm_service.routing.demand.counterfactual import Demand, Speeds
from vllm_service.routing.demand.endpoint_demand import EndpointDemand
from vllm_service.routing.demand.target import DemandController
from vllm_service.routing.profiles import LatencyTarget

SPEEDS = Speeds(0.05, 0.0002, 0.02, 0.0001, 0.5, 16)


def requests(second: int) -> list[Demand]:
    target = LatencyTarget()
    return [Demand(second + number / 40, 400_000_000, 800, 200.0, target) for number in range(40)]


def test_demand_before_and_after_the_rules_are_loaded_counts_alike() -> None:
    late, always = EndpointDemand(6, 0.0005, always_on=1), DemandController(6, 0.0005, always_on=1)
    wanted = []
    for second in range(60):
        for one in requests(second):
            late.demand(one)
            always.demand(one)
        late.took(0.001)
        always.took(0.001)
        at = float(second + 1)
        both = [controller.decide(at, 30.0, 5.0, SPEEDS, second * 0.001) for controller in (late, always)]
        assert both[0] == both[1]
        wanted.append(both[0])
    assert max(wanted) > 1, "the demand was too small to show anything"
    assert late.load_workers == always.load > 0.0
    assert late.is_quiet == always.is_quiet


def test_without_a_request_it_is_quiet_and_nothing_is_loaded() -> None:
    demand = EndpointDemand(6, 0.0005)
    assert (demand.is_quiet, demand.load_workers) == (True, 0.0)
    demand.demand(requests(0)[0])
    assert not demand.is_quiet


def test_making_it_loads_no_rules() -> None:
    check = f"""
import sys
from {EndpointDemand.__module__} import EndpointDemand
demand = EndpointDemand(6, 0.0005)
demand.took(0.1)
before = "numpy" in sys.modules
demand.load()
print(before, "numpy" in sys.modules)
"""
    ended = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["False", "True"]


def test_what_was_saved_before_the_rules_were_loaded_is_known_to_them() -> None:
    before, after = EndpointDemand(6, 0.0005), EndpointDemand(6, 0.0005)
    before.took(0.25)
    before.load()
    after.load()
    after.took(0.25)
    for demand in (before, after):
        for one in requests(0):
            demand.demand(one)
    decided = [demand.decide(1.0, 30.0, 5.0, SPEEDS, 0.2) for demand in (before, after)]
    assert decided[0] == decided[1]
