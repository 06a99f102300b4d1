"""An endpoint without requests: RunPod lowers its maximum of workers by itself, until somebody raises it."""

from __future__ import annotations

from typing import Any

import pytest

from runpod_emulator import Emulator, EndpointSettings
from tests.runpod_emulator.rest_calls import rest_of
from tests.runpod_emulator.support import Bench, HandClock

DAY = 24 * 3600


@pytest.mark.parametrize(
    ("days", "settings", "bounds"),
    [
        (2.99, {"max_workers": 5}, (0, 5)),
        (3, {"max_workers": 5}, (0, 2)),
        (3, {"max_workers": 1}, (0, 1)),
        (3, {"max_workers": 5, "min_workers": 4}, (2, 2)),
        (3, {"max_workers": 5, "unused_max_workers": 3}, (0, 3)),
        (6.99, {"max_workers": 5}, (0, 2)),
        (7, {"max_workers": 5, "min_workers": 1}, (0, 0)),
        (0.5, {"max_workers": 5, "unused_until_reduced_seconds": DAY / 2}, (0, 2)),
        (0.5, {"max_workers": 5, "unused_until_stopped_seconds": DAY / 2}, (0, 0)),
    ],
)
def test_the_bounds_follow_the_time_without_a_request(
    days: float, settings: dict[str, Any], bounds: tuple[int, int]
) -> None:
    bench = Bench(**settings)
    bench.clock.pass_(days * DAY)
    bench.endpoint.housekeep()
    assert (bench.endpoint.settings.min_workers, bench.endpoint.settings.max_workers) == bounds


def test_a_request_counts_and_raises_nothing() -> None:
    bench = Bench(max_workers=5)
    for _ in range(5):
        bench.clock.pass_(2 * DAY)
        bench.endpoint.housekeep()
        bench.job()
    assert bench.endpoint.settings.max_workers == 5
    bench.clock.pass_(3 * DAY)
    bench.endpoint.housekeep()
    bench.job()
    bench.endpoint.housekeep()
    assert bench.endpoint.settings.max_workers == 2


async def test_a_patch_of_the_maximum_puts_it_back_for_another_three_days() -> None:
    clock = HandClock()
    async with Emulator(EndpointSettings(max_workers=5), clock=clock) as emulator, rest_of(emulator) as rest:
        for _ in range(2):
            clock.pass_(3 * DAY)
            emulator.endpoint.housekeep()
            shown = (await rest("GET", "/v2/serverless/local")).json()
            assert shown["workers"]["max"] == 2
            raised = await rest("PATCH", "/v2/serverless/local", {"workers": {"max": 4}})
            emulator.endpoint.housekeep()
            assert raised.json()["workers"]["max"] == emulator.endpoint.settings.max_workers == 4
