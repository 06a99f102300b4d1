"""The REST bill: exact, per bucket and part, without workers' times; deleted endpoints and volumes stay on it."""

from __future__ import annotations

import json
import re
import time
from decimal import Decimal
from typing import Any

import httpx
import pytest

from runpod_emulator import BillingRates, Emulator, EndpointSettings
from runpod_emulator.api.rest.billing import MOST_RECORDS
from runpod_emulator.billing.rates import SECONDS_PER_MONTH

HOUR = 3600.0
PICO = Decimal("1e-12")


class WallClock:
    """A clock whose 0 is 1970, moved by hand: what the account bills is at the times that a test names."""

    def __init__(self, at: float) -> None:
        self.now = at

    def __call__(self) -> float:
        return self.now


async def bill(emulator: Emulator, path: str = "serverless", **query: str) -> Any:
    async with httpx.AsyncClient(base_url=emulator.origin, trust_env=False, verify=False) as client:
        answer = await client.get(f"/v2/billing/{path}", params=query)
    assert answer.status_code == 200, answer.text
    return json.loads(answer.text, parse_float=Decimal)


async def post(emulator: Emulator, path: str, body: dict[str, Any]) -> Any:
    async with httpx.AsyncClient(base_url=emulator.origin, trust_env=False, verify=False) as client:
        answer = await client.post(path, json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


@pytest.fixture
def midnight() -> float:
    """A recent midnight of UTC."""
    return time.time() // 86_400 * 86_400


def work(emulator: Emulator, clock: WallClock, worker: str, begin: float, end: float) -> None:
    """Lets a worker of the first endpoint live, in the past of the clock."""
    state = emulator.endpoint
    clock.now = begin
    state.registry.start(worker)
    clock.now = (begin + end) / 2
    state.registry.mark_ready(worker)
    clock.now = end
    emulator.end_worker(worker, 0)


async def test_two_days_hold_what_the_emulators_own_bill_has_to_the_last_digit(midnight: float) -> None:
    clock = WallClock(midnight)
    settings = EndpointSettings(usd_per_second=Decimal("0.00031"))
    async with Emulator(settings, clock=clock, clock_began_at=0, rest_quotas={}) as emulator:
        work(emulator, clock, "w1", midnight + 22 * HOUR, midnight + 22 * HOUR + 100.25)
        work(emulator, clock, "w2", midnight + 24 * HOUR - 60.5, midnight + 24 * HOUR + 90)
        clock.now = midnight + 25 * HOUR
        by_day = await bill(emulator, lastN="2")
        by_hour = await bill(emulator, lastN="26", bucketSize="hour")
        own = emulator.bill()
    gpu = [record["gpuAmount"] for record in by_day["records"]]
    assert gpu == [Decimal("0.00031") * 101 + Decimal("0.018755"), Decimal("0.0281480") - Decimal("0.000093")]
    assert sum(gpu) == own.total_usd == Decimal("0.00031") * (101 + 151)
    assert by_day["metadata"]["totals"]["gpuAmount"] == own.total_usd
    assert sum(record["gpuAmount"] for record in by_hour["records"]) == own.total_usd
    assert by_hour["metadata"]["totals"] == by_day["metadata"]["totals"]
    assert by_day["metadata"]["recordCount"] == len(by_day["records"]) == 2
    assert [record["startTime"][11:] for record in by_day["records"]] == ["00:00:00Z"] * 2


async def test_the_total_is_the_sum_of_its_parts_with_disk_and_fee(midnight: float) -> None:
    clock = WallClock(midnight)
    rates = BillingRates(fee_share=Decimal("0.05"), disk_usd_per_gb_month=Decimal("0.10"))
    async with Emulator(clock=clock, clock_began_at=0, rates=rates, rest_quotas={}) as emulator:
        work(emulator, clock, "w1", midnight, midnight + 10)
        totals = (await bill(emulator, lastN="1"))["metadata"]["totals"]
    assert totals["gpuAmount"] == Decimal("0.0019")
    assert totals["feeAmount"] == Decimal("0.000095")
    disk = Decimal(20) * Decimal("0.10") * 10 / SECONDS_PER_MONTH
    assert disk - PICO < totals["diskAmount"] <= disk
    assert totals["cpuAmount"] == 0
    assert totals["totalAmount"] == sum(totals[name] for name in totals if name != "totalAmount")


async def test_the_bill_has_no_times_of_workers_and_no_exponents(midnight: float) -> None:
    clock = WallClock(midnight)
    settings = EndpointSettings(usd_per_second=Decimal("0.000000000001"))
    async with Emulator(settings, clock=clock, clock_began_at=0, rest_quotas={}) as emulator:
        work(emulator, clock, "w1", midnight, midnight + 1)
        async with httpx.AsyncClient(base_url=emulator.origin, trust_env=False, verify=False) as client:
            text = (await client.get("/v2/billing/serverless", params={"lastN": "1"})).text
    assert '"gpuAmount": 0.000000000001' in text
    assert not re.search(r"\d[eE][+-]?\d", text)
    assert "w1" not in text
    assert set(json.loads(text)["records"][0]) == {
        *("startTime", "endTime", "serverlessId"),
        *("totalAmount", "gpuAmount", "cpuAmount", "diskAmount", "feeAmount"),
    }


async def test_what_a_running_worker_costs_grows_and_what_is_past_stays(midnight: float) -> None:
    clock = WallClock(midnight)
    async with Emulator(clock=clock, clock_began_at=0, rest_quotas={}) as emulator:
        clock.now = midnight + 86_400 - 30
        emulator.endpoint.registry.start("w1")
        clock.now = midnight + 86_400 + 10.5
        first = await bill(emulator, lastN="2")
        clock.now += 5
        second = await bill(emulator, lastN="2")
    amounts = [[record["gpuAmount"] for record in one["records"]] for one in (first, second)]
    price = Decimal("0.00019")
    assert amounts == [[30 * price, 11 * price], [30 * price, 16 * price]]


async def test_another_endpoint_has_its_own_price_and_stays_on_the_bill_when_it_is_deleted() -> None:
    body = {"name": "large", "type": "QUEUE", "image": "x", "gpu": {"pools": ["HOPPER_141"], "count": 2}}
    body["scaling"] = {"type": "QUEUE_DELAY", "queueDelay": 4}
    async with Emulator(rest_quotas={}) as emulator:
        endpoint_id = (await post(emulator, "/v2/serverless", body))["id"]
        endpoint = emulator.account.endpoints[endpoint_id]
        worker = endpoint.state.registry.start("w1")
        endpoint.state.end_worker(worker, 0)
        before = await bill(emulator, serverlessId=endpoint_id, lastN="2")
        emulator.account.delete(endpoint)
        after = await bill(emulator, serverlessId=endpoint_id, lastN="2")
        everything = await bill(emulator, lastN="2")
    assert before["metadata"]["totals"] == after["metadata"]["totals"]
    assert after["metadata"]["totals"]["gpuAmount"] == 2 * Decimal("0.00155")
    assert after["metadata"]["query"]["serverlessId"] == endpoint_id
    assert everything["metadata"]["uniqueServerlessCount"] == 2
    assert {record["serverlessId"] for record in everything["records"]} == {"local", endpoint_id}


async def test_a_volume_is_billed_by_its_sizes_until_it_is_deleted(midnight: float) -> None:
    clock = WallClock(midnight)
    async with Emulator(clock=clock, clock_began_at=0, rest_quotas={}) as emulator:
        volumes = emulator.account.volumes
        small = volumes.create("small", 100, "EU-RO-1", "STANDARD")
        fast = volumes.create("fast", 100, "EU-RO-1", "HIGH_PERFORMANCE")
        clock.now = midnight + 10 * HOUR
        volumes.change(small, size_gb=2000)
        volumes.delete(fast)
        clock.now = midnight + 20 * HOUR
        both = await bill(emulator, "network-volumes", bucketSize="day", lastN="1")
        one = await bill(emulator, "network-volumes", networkVolumeId=small.id, bucketSize="hour", lastN="24")
    month_hours = Decimal(730)
    standard = (100 * Decimal("0.07") * 10 + (70 + 50) * 10) / month_hours
    records = {record["networkVolumeId"]: record for record in both["records"]}
    assert standard - PICO < records[small.id]["standardAmount"] <= standard
    assert records[small.id]["highPerformanceAmount"] == records[fast.id]["standardAmount"] == 0
    high = 100 * Decimal("0.14") * 10 / month_hours
    assert high - PICO < records[fast.id]["highPerformanceAmount"] <= high
    assert one["metadata"]["totals"]["standardAmount"] == records[small.id]["standardAmount"]
    assert both["metadata"]["uniqueNetworkVolumeCount"] == 2


async def test_more_records_than_fit_into_an_answer_are_refused_before_they_are_made() -> None:
    async with Emulator(rest_quotas={}) as emulator:
        for number in range(20):
            emulator.account.volumes.create(f"v{number}", 10, "EU-RO-1")
        client = httpx.AsyncClient(base_url=emulator.origin, trust_env=False, verify=False)
        async with client:
            query = {"bucketSize": "hour", "lastN": "600"}
            refused = await client.get("/v2/billing/network-volumes", params=query)
            narrowed = await client.get("/v2/billing/network-volumes", params=query | {"lastN": "500"})
    assert (refused.status_code, "bucketSize" in refused.json()["detail"]) == (400, True)
    assert narrowed.json()["metadata"]["recordCount"] == MOST_RECORDS


async def test_the_emulators_own_bill_keeps_the_times_of_workers(midnight: float) -> None:
    clock = WallClock(midnight)
    async with Emulator(clock=clock, clock_began_at=0, rest_quotas={}) as emulator:
        work(emulator, clock, "w1", midnight, midnight + 10)
        async with httpx.AsyncClient(base_url=emulator.url, trust_env=False, verify=False) as client:
            lines = (await client.get("/billing")).json()["workers"]
    assert [line["stopped_at"] - line["started_at"] for line in lines] == [10]
