"""What RunPod has is compared with what is wanted, field by field; no value of a variable is shown."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from vllm_service.deployment.difference import CONCEALED, Difference, differences

WANTED: dict[str, Any] = {
    "name": "chat",
    "type": "QUEUE",
    "env": {"A": "1"},
    "gpu": {"pools": ["ADA_24", "AMPERE_24"], "count": 1},
    "workers": {"min": 0, "max": 3},
    "scaling": {"type": "QUEUE_DELAY", "queueDelay": 2.5},
    "networkVolumes": [],
}
THERE = {
    **WANTED,
    "id": "ep_1",
    "createdAt": "2026-11-01T00:00:00Z",
    "workers": {"min": 0, "max": 3, "idleTimeout": 10},
    "scaling": {"type": "QUEUE_DELAY", "queueDelay": Decimal("2.5")},
}


def test_what_is_as_wanted_has_no_difference_whatever_else_is_there() -> None:
    assert differences(WANTED, THERE) == ()


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ({"workers": {"min": 0, "max": 2}}, [Difference("workers.max", 2, 3)]),
        ({"workers": None}, [Difference("workers.min", None, 0), Difference("workers.max", None, 3)]),
        ({"type": "LOAD_BALANCER"}, [Difference("type", "LOAD_BALANCER", "QUEUE", cannot_change=True)]),
        (
            {"gpu": {"pools": ["AMPERE_24", "ADA_24"], "count": Decimal(1)}},
            [Difference("gpu.pools", ["AMPERE_24", "ADA_24"], ["ADA_24", "AMPERE_24"])],
        ),
        (
            {"scaling": {"type": "REQUEST_COUNT", "requestCount": 4}},
            [
                Difference("scaling.type", "REQUEST_COUNT", "QUEUE_DELAY"),
                Difference("scaling.queueDelay", None, 2.5),
            ],
        ),
        (
            {"scaling": {"type": "QUEUE_DELAY", "queueDelay": Decimal("0.7")}},
            [Difference("scaling.queueDelay", 0.7, 2.5)],
        ),
        ({"env": {"A": "1", "B": "gone"}}, [Difference("env.B", CONCEALED, None)]),
        ({"env": {"A": "other"}}, [Difference("env.A", CONCEALED, CONCEALED)]),
        ({"env": "no mapping"}, [Difference("env.A", None, CONCEALED)]),
    ],
)
def test_a_field_that_differs_is_named(there: dict[str, Any], expected: list[Difference]) -> None:
    found = differences(WANTED, {**THERE, **there})
    assert [*found] == expected
    assert "other" not in repr(found)
    assert "gone" not in repr(found)


def test_of_nothing_every_field_differs() -> None:
    found = differences(WANTED, None)
    assert [difference.field for difference in found] == [
        *("name", "type", "env.A", "gpu.pools", "gpu.count", "workers.min", "workers.max"),
        *("scaling.type", "scaling.queueDelay", "networkVolumes"),
    ]
    assert not any(difference.cannot_change for difference in found)
