"""The lines below `ledger summary`: days with a bill and no request, credits, and what is too small to be shown."""

from __future__ import annotations

import pytest

from vllm_service.cli.spend_lines import spend_lines
from vllm_service.domain.cost_basis import BOOKED, CostBasis
from vllm_service.domain.spend import ProviderSpend, SpendLine, SpendPart

USD = 10**12
BILLED = CostBasis.BILLED


def day(*lines: SpendLine, baseline: int | None = None) -> ProviderSpend:
    return ProviderSpend("own", 20_759, lines, baseline)


@pytest.mark.parametrize(
    ("days", "shown"),
    [
        pytest.param(
            [day(SpendLine(SpendPart.UNEXPLAINED, BILLED, 12 * USD), SpendLine(SpendPart.VOLUME, BILLED, USD // 2))],
            [
                "own: unexplained $12.000000, volume $0.500000; billed.",
                "All together $12.500000, billed.",
            ],
            id="a bill without a request",
        ),
        pytest.param(
            [
                day(
                    SpendLine(SpendPart.IDLE, BILLED, 3 * USD),
                    SpendLine(SpendPart.UNEXPLAINED, BILLED, -USD),
                    baseline=USD,
                )
            ],
            [
                "own: workers $3.000000: idle 100.0 %, unexplained -$1.000000; billed.",
                "All together $2.000000, billed, $1.000000 more than the baseline.",
            ],
            id="a credit, and a loss",
        ),
        pytest.param(
            [day(SpendLine(SpendPart.EXECUTION, BILLED, USD), SpendLine(SpendPart.UNEXPLAINED, BILLED, 2))],
            ["own: workers $1.000000: execution 100.0 %; billed.", "All together $1.000000, billed."],
            id="a bill's own rounding",
        ),
        pytest.param(
            [day(SpendLine(SpendPart.REQUESTS, BOOKED, USD), baseline=3 * USD)],
            ["All together $1.000000, booked, $2.000000 less than the baseline."],
            id="tokens alone",
        ),
        pytest.param([], [], id="nothing"),
    ],
)
def test_what_days_cost_is_said(days: list[ProviderSpend], shown: list[str]) -> None:
    assert spend_lines(days) == shown
