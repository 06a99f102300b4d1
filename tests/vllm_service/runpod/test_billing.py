"""RunPod's bill over REST v2: asked for by month, endpoint and volume, and bounded."""

from __future__ import annotations

from datetime import date
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from tests.vllm_service.runpod.scripted import Scripted, problem, says, scripted
from vllm_service.accounting.bill_records import Bill
from vllm_service.domain.bill import BillPart, parts_per_day
from vllm_service.errors import UpstreamFailed
from vllm_service.runpod.billing import MOST_RECORDS, BillQuery, fetch_bill
from vllm_service.runpod.command_http import open_send
from vllm_service.runpod.rest_api import RestApi
from vllm_service.runpod.rest_errors import RestError

KEY = "rpa_secret"


def endpoint_record(day: str, name: str = "ep", **amounts: float) -> dict[str, Any]:
    known = {"totalAmount": 1.6, "gpuAmount": 1.0, "cpuAmount": 0, "diskAmount": 0.1, "feeAmount": 0.5}
    return {"startTime": f"{day}T00:00:00Z", "serverlessId": name} | known | amounts


def volume_record(day: str, name: str) -> dict[str, Any]:
    amounts = {"totalAmount": 0.07, "standardAmount": 0.07, "highPerformanceAmount": 0}
    return {"startTime": f"{day}T00:00:00Z", "networkVolumeId": name} | amounts


def records(*these: dict[str, Any], **members: object) -> bytes:
    return says({"records": these, "metadata": {"recordCount": len(these)}} | members)


async def fetched(script: Scripted, query: BillQuery) -> Bill:
    async with open_send() as send:
        return await fetch_bill(RestApi(script.origin, KEY, send, longest_wait_seconds=0), query)


def asked(script: Scripted) -> list[tuple[str, dict[str, str]]]:
    targets = [urlsplit(target) for _, target, _, _ in script.asked]
    return [(target.path, dict(parse_qsl(target.query))) for target in targets]


async def test_an_endpoints_days_and_its_volumes_are_one_bill() -> None:
    query = BillQuery(date(2026, 11, 2), date(2026, 11, 3), "ep", ("v1", "v2"))
    async with scripted() as script:
        script.answers = [
            records(endpoint_record("2026-11-02"), endpoint_record("2026-11-03", gpuAmount=2.0)),
            records(volume_record("2026-11-02", "v1")),
            records(volume_record("2026-11-02", "v2")),
        ]
        bill = await fetched(script, query)
    days = parts_per_day(bill.lines)
    assert [days[date(2026, 11, 2)].of(part) for part in BillPart] == [10**12, 0, 10**11, 5 * 10**11, 14 * 10**10]
    assert days[date(2026, 11, 3)].of(BillPart.GPU) == 2 * 10**12
    assert days[date(2026, 11, 3)].of(BillPart.VOLUME) is None
    window = {"startTime": "2026-11-02T00:00:00Z", "endTime": "2026-11-04T00:00:00Z", "bucketSize": "day"}
    assert asked(script) == [
        ("/v2/billing/serverless", window | {"serverlessId": "ep"}),
        ("/v2/billing/network-volumes", window | {"networkVolumeId": "v1"}),
        ("/v2/billing/network-volumes", window | {"networkVolumeId": "v2"}),
    ]


async def test_a_long_time_is_asked_for_by_month_without_a_day_twice_or_left_out() -> None:
    async with scripted() as script:
        script.answers = [records() for _ in range(3)]
        bill = await fetched(script, BillQuery(date(2026, 8, 1), date(2026, 10, 2)))
    assert bill.lines == ()
    assert [(query["startTime"][:10], query["endTime"][:10]) for _, query in asked(script)] == [
        ("2026-08-01", "2026-09-01"),
        ("2026-09-01", "2026-10-02"),
        ("2026-10-02", "2026-10-03"),
    ]


async def test_records_that_were_not_asked_for_do_not_count() -> None:
    others = [
        endpoint_record("2026-11-02", "another"),
        endpoint_record("2026-11-01"),
        endpoint_record("2026-11-04"),
        {"serverlessId": "ep", "totalAmount": 5},
    ]
    async with scripted() as script:
        script.answers = [records(*others, endpoint_record("2026-11-03"))]
        bill = await fetched(script, BillQuery(date(2026, 11, 2), date(2026, 11, 3), "ep"))
    assert [line.picousd for line in bill.lines] == [1_600_000_000_000]


async def test_pages_are_followed_to_their_end() -> None:
    async with scripted() as script:
        script.answers = [
            records(endpoint_record("2026-11-02"), nextCursor="further"),
            records(endpoint_record("2026-11-03")),
        ]
        bill = await fetched(script, BillQuery(date(2026, 11, 2), date(2026, 11, 3)))
    assert len(bill.lines) == 2
    assert asked(script)[1][1]["cursor"] == "further"


async def test_a_list_without_an_end_is_refused() -> None:
    page = [endpoint_record("2026-11-02")] * 4000
    async with scripted() as script:
        script.answers = [records(*page, nextCursor=str(number)) for number in range(3)]
        with pytest.raises(UpstreamFailed, match=f"more than {MOST_RECORDS:,} records"):
            await fetched(script, BillQuery(date(2026, 11, 2), date(2026, 11, 3)))


async def test_what_runpod_refuses_names_its_remedy_and_no_key() -> None:
    async with scripted() as script:
        script.answers = [problem(403, f"the key {KEY} may not")]
        with pytest.raises(RestError, match="give the key Read Only") as refused:
            await fetched(script, BillQuery(date(2026, 11, 2), date(2026, 11, 3)))
    assert KEY not in str(refused.value)


def test_days_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValueError, match="2026-11-01, is before the first, 2026-11-02"):
        BillQuery(date(2026, 11, 2), date(2026, 11, 1))
