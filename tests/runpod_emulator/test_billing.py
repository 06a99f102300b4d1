"""The meter is exact: seconds rounded up once per worker, money in Decimal."""

from __future__ import annotations

import io
from decimal import Decimal

import pytest
from rich.console import Console

from runpod_emulator.billing.bill import Bill, Meter, Phase, bill_line
from runpod_emulator.billing.table import bill_table
from tests.runpod_emulator.support import Bench

PRICE = Decimal("0.00019")


def test_a_worker_is_billed_from_its_start_to_its_stop_rounded_up_once() -> None:
    meter = Meter(100.0)
    meter.enter(Phase.IDLE, 102.4)
    meter.enter(Phase.RUNNING, 102.6)
    meter.enter(Phase.IDLE, 103.1)
    meter.stop(110.1)
    line = bill_line("w", meter, 999.0, PRICE, 0)
    assert (line.cold_start_seconds, line.running_seconds, line.idle_seconds) == (
        Decimal("2.4"),
        Decimal("0.5"),
        Decimal("7.2"),
    )
    assert (line.billed_seconds, line.usd) == (11, Decimal("0.00209"))


def test_ten_thousand_seconds_in_tenths_are_not_rounded_up_by_float_error() -> None:
    meter = Meter(0.0)
    for step in range(100_000):
        meter.enter(Phase.RUNNING if step % 2 else Phase.IDLE, step / 10)
    meter.stop(10_000.0)
    assert bill_line("w", meter, 0, PRICE).usd == Decimal("1.90000")


def test_a_worker_is_not_billed_while_it_is_unhealthy_nor_after_it_stopped() -> None:
    meter = Meter(0.0, Phase.IDLE)
    meter.enter(Phase.UNHEALTHY, 3)
    meter.stop(50)
    meter.enter(Phase.RUNNING, 60)
    assert bill_line("w", meter, 100, PRICE).billed_seconds == 3


def test_the_bill_follows_the_states_of_the_workers() -> None:
    bench = Bench(usd_per_second=Decimal("0.001"))
    worker = bench.registry.start("w1")
    bench.clock.pass_(10)
    bench.registry.mark_ready("w1")
    bench.clock.pass_(2)
    job = bench.job()
    bench.take("w1")
    bench.clock.pass_(3)
    bench.store.finish(job.id, "w1", {"output": 1})
    bench.clock.pass_(5)
    bench.endpoint.end_worker(worker, 0)
    bench.clock.pass_(100)
    bill = bench.registry.bill()
    assert bill.to_json() == {
        "usd_per_second": "0.001",
        "workers": [
            {
                "worker_id": "w1",
                "cold_start_seconds": 10.0,
                "running_seconds": 3.0,
                "idle_seconds": 7.0,
                "billed_seconds": 20,
                "usd_per_second": "0.001",
                "total_usd": "0.020",
                "exit_code": 0,
            }
        ],
        "billed_seconds": 20,
        "total_usd": "0.020",
    }
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(bill_table("local", bill))
    assert "0.020" in console.export_text()


@pytest.mark.parametrize(
    ("prices", "said"),
    [
        ([], "RunPod bill of endpoint ep at $0.001 per second"),
        (["0.002"], "RunPod bill of endpoint ep at $0.002 per second"),
        (["0.002", "0.00031"], "0.00031"),
    ],
)
def test_the_table_says_each_price(prices: list[str], said: str) -> None:
    meter = Meter(0.0)
    meter.stop(10.0)
    bill = Bill(Decimal("0.001"), tuple(bill_line("w", meter, 10.0, Decimal(price)) for price in prices))
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(bill_table("ep", bill))
    text = console.export_text()
    assert said in text
    assert ("USD/s" in text) == (len(prices) > 1)
