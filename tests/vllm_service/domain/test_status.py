"""How parts are doing: what is not known is None and never a 0."""

from __future__ import annotations

import pytest

from vllm_service.domain.status import CacheState


@pytest.mark.parametrize(
    ("hits", "misses", "rate"),
    [(0, 0, None), (0, 4, 0.0), (1, 3, 0.25), (5, 0, 1.0), (2**64, 2**64, 0.5)],
)
def test_the_hit_rate_is_of_the_look_ups_and_unknown_before_the_first(
    hits: int, misses: int, rate: float | None
) -> None:
    assert CacheState(hits, misses).hit_rate == rate
