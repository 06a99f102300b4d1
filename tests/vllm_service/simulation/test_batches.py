"""What one worker can read of a batch, against every subset in every order."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_service.simulation.bound.savings import most_by_one_worker

CELL_SECONDS = 0.05
BATCH = st.lists(st.tuples(st.floats(0.0, 2.0), st.floats(0.0, 4.0), st.floats(0.0, 1.0)), min_size=1, max_size=5)


def most_dollars(batch: list[tuple[float, float, float]]) -> float:
    """Of the subset that is worth most, among those that some order reads in time."""
    best = 0.0
    for count in range(1, len(batch) + 1):
        for those in combinations(batch, count):
            for order in permutations(those):
                read_by = np.cumsum([reading for reading, _, _ in order])
                if all(end <= patience for end, (_, patience, _) in zip(read_by, order, strict=True)):
                    best = max(best, sum(usd for _, _, usd in those))
    return best


@settings(max_examples=200, deadline=None)
@given(BATCH)
def test_no_order_reads_more_and_one_reads_as_much_with_a_cell_more_patience_each(
    batch: list[tuple[float, float, float]],
) -> None:
    most = most_by_one_worker(*(np.array(column) for column in zip(*batch, strict=True)))
    patient = [(reading, patience + CELL_SECONDS * len(batch), usd) for reading, patience, usd in batch]
    assert most_dollars(batch) - 1e-9 <= most <= most_dollars(patient) + 1e-9


def test_of_three_at_once_a_worker_reads_two_where_seconds_alone_would_do_for_more() -> None:
    three = np.full(3, 1.5)
    assert most_by_one_worker(three, np.full(3, 4.2), np.array([1.0, 2.0, 3.0])) == pytest.approx(5.0)
