"""Traffic against a gateway, a worker with real vLLM and hosted providers: nobody is lost, the ledger is the bill."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np

from benchmarks.compressed_trace.physics import Physics
from benchmarks.compressed_trace.run import played
from benchmarks.compressed_trace.stage import HOSTED, OWN
from benchmarks.compressed_trace.verdict import BEFORE_BILL_PERCENT, LEDGER_PERCENT, before_bill_percent, ledger_percent
from vllm_service.simulation.trace import Trace

# Nothing is measured here: what the router is told of the worker need not be right, only cheap enough to try.
EXPECTED = Physics(
    cold_start_seconds=1.0,
    idle_seconds=5.0,
    overhead_seconds=0.02,
    prefill_tokens_per_second=2000.0,
    decode_seconds=0.005,
    decode_seconds_per_batch=0.001,
    prefill_share=0.7,
)


async def test_no_request_is_lost_and_the_ledger_is_what_workers_and_providers_bill(tmp_path: Path) -> None:
    draw, count = np.random.default_rng(0), 60
    trace = Trace(
        np.arange(count) * np.float64(0.5),
        draw.integers(8, 400, count).astype(np.float64),
        draw.integers(2, 40, count).astype(np.float64),
    )
    dear = tuple(replace(place, input_usd=20 * place.input_usd, output_usd=20 * place.output_usd) for place in HOSTED)
    real = await played(trace, EXPECTED, tmp_path, hosted=dear, until_own_answers=True)
    assert [answer.error for answer in real.answers if answer.error is not None] == []
    assert {OWN, "cheap"} <= {answer.provider for answer in real.answers}
    assert abs(ledger_percent(real)) < LEDGER_PERCENT
    assert real.ledger.hosted_usd == real.bills.hosted_usd
    total = real.ledger.reconciled["total"]
    assert round(Decimal(total["compute_usd"]), 12) == real.bills.own_usd > 0
    assert round(Decimal(total["billed_usd"]), 12) == real.bills.own_usd + real.bills.beside_usd
    assert abs(total["difference_percentage"]) < LEDGER_PERCENT
    before = before_bill_percent(real)
    assert before is not None
    assert abs(before) < BEFORE_BILL_PERCENT
