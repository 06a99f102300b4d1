"""Days of traffic on the emulator, against the bill of REST v2, which has no times of workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.billed_days.__main__ import BOOKED_PERCENT, CALLER_PERCENT, CENT_PICOUSD
from benchmarks.billed_days.days import DAYS, Day
from benchmarks.billed_days.played_day import played
from vllm_service.domain.cost_basis import CostBasis
from vllm_service.domain.spend import SpendPart


@pytest.mark.parametrize("day", DAYS, ids=lambda day: day.name)
async def test_a_day_is_near_the_bill_before_it_comes_and_the_bill_after(tmp_path: Path, day: Day) -> None:
    result = await played(day, tmp_path)
    assert abs(result.booked_percent) < BOOKED_PERCENT
    assert abs(result.off_picousd) < CENT_PICOUSD
    assert abs(result.worst_caller_percent(result.by_true_times)) < CALLER_PERCENT
    assert CostBasis.BILLED not in result.booked.by_basis()
    assert set(result.billed.by_basis()) == {CostBasis.BILLED}
    parts = result.billed.by_part()
    assert (parts[SpendPart.DISK], parts[SpendPart.FEE]) == (result.bill.disk_picousd, result.bill.fee_picousd)
    assert parts[SpendPart.FEE] > 0
    # No caller pays for what came past the gateway.
    assert (parts.get(SpendPart.NO_REQUEST, 0) > result.compute_picousd // 20) is (day.other_asks_per_hour > 0)
