"""Bills as RunPod and the emulator write them are read leniently and to the last unit."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vllm_service.accounting.bill_records import joined, parse_bill
from vllm_service.accounting.bills import read_bill
from vllm_service.domain.bill import BilledAmount, BillPart
from vllm_service.errors import ConfigurationError

DAY_US = 1_777_939_200_000_000  # 2026-05-05
LINE = {
    "amount": 0.5709989242022857,
    "endpointId": "ep1",
    "gpuTypeId": "NVIDIA L4",
    "time": "2026-05-05T00:00:00Z",
    "timeBilledMs": 3404045,
}


@pytest.mark.parametrize(
    "document",
    [
        [LINE],
        {"billing": [LINE]},
        {
            "records": [
                {"totalAmount": 0.5709989242022857, "serverlessId": "ep1", "startTime": "2026-05-05T02:00+02:00"}
            ]
        },
        {"data": [{"amount": "0.5709989242022857", "endpointId": "ep1", "time": "2026-05-05 00:00:00"}]},
        [LINE, {"amount": 9, "endpointId": "another"}, "what is this"],
    ],
)
def test_runpods_billing_api_is_read_in_all_its_shapes(document: Any) -> None:
    bill = parse_bill(json.dumps(document).encode(), now_us=0).only("ep1")
    assert bill.lines == (BilledAmount(570_998_924_202, "ep1", DAY_US),)
    assert bill.workers == ()


def test_the_emulators_bill_gives_its_workers_with_their_times() -> None:
    worker = {"worker_id": "w1", "total_usd": "0.00209", "started_at": 10.5, "ready_at": 12, "stopped_at": None}
    bill = parse_bill(json.dumps({"workers": [worker]}).encode(), now_us=20_000_000)
    (billed,) = bill.workers
    assert (billed.started_us, billed.ready_us, billed.stopped_us) == (10_500_000, 12_000_000, 20_000_000)
    assert billed.cost_picousd == bill.lines[0].picousd == 2_090_000_000


def test_an_emulators_bill_without_times_is_undated() -> None:
    bill = parse_bill(b'{"workers": [{"worker_id": "w1", "total_usd": "0.00209"}]}', now_us=0)
    assert (bill.lines, bill.workers) == ((BilledAmount(2_090_000_000),), ())


SERVERLESS = {
    "startTime": "2026-05-05T00:00:00Z",
    "endTime": "2026-05-06T00:00:00Z",
    "serverlessId": "ep1",
    "totalAmount": 8.9,
    "gpuAmount": 7.5,
    "cpuAmount": 0,
    "diskAmount": 0.4,
    "feeAmount": 1.0,
}
VOLUME = {
    "startTime": "2026-05-05T00:00:00Z",
    "endTime": "2026-05-06T00:00:00Z",
    "networkVolumeId": "v1",
    "totalAmount": 5.79,
    "standardAmount": 0.1,
    "highPerformanceAmount": 5.69,
}
USD = 10**12


def v2(*records: dict[str, Any]) -> bytes:
    return json.dumps({"records": records, "metadata": {"recordCount": len(records)}}).encode()


def test_the_parts_of_an_endpoints_line_are_kept_apart() -> None:
    (line,) = parse_bill(v2(SERVERLESS), now_us=0).lines
    assert (line.picousd, line.endpoint, line.started_us, line.ended_us) == (
        8_900_000_000_000,
        "ep1",
        DAY_US,
        DAY_US + 86_400_000_000,
    )
    assert line.parts == {
        BillPart.GPU: 7_500_000_000_000,
        BillPart.CPU: 0,
        BillPart.DISK: 400_000_000_000,
        BillPart.FEE: USD,
    }


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({}, {BillPart.VOLUME: 5_790_000_000_000}),
        ({"standardAmount": None}, {BillPart.VOLUME: None}),
        ({"highPerformanceAmount": 5.0}, {BillPart.VOLUME: 5_100_000_000_000}),
    ],
)
def test_a_volumes_line_is_its_two_kinds_of_storage(change: dict[str, Any], parts: dict[BillPart, int | None]) -> None:
    (line,) = parse_bill(v2(VOLUME | change), now_us=0).lines
    assert (line.volume, line.endpoint, line.picousd, line.parts) == ("v1", None, 5_790_000_000_000, parts)


def test_a_part_that_the_bill_lacks_is_unknown_and_not_0() -> None:
    lacking = {name: value for name, value in SERVERLESS.items() if name != "diskAmount"}
    for record in (lacking, SERVERLESS | {"diskAmount": None}):
        (line,) = parse_bill(v2(record), now_us=0).lines
        assert (line.parts[BillPart.DISK], line.parts[BillPart.FEE]) == (None, USD)


def test_amounts_are_read_from_their_digits_and_not_through_floats() -> None:
    digits = "12345678901.123456789012"
    text = v2(SERVERLESS).replace(b"7.5", digits.encode())
    assert parse_bill(text, now_us=0).lines[0].parts[BillPart.GPU] == int(digits.replace(".", ""))


def test_of_a_bill_of_many_endpoints_and_volumes_only_the_named_ones_count() -> None:
    bill = joined(
        [
            parse_bill(v2(SERVERLESS, SERVERLESS | {"serverlessId": "another"}), now_us=0),
            parse_bill(v2(VOLUME, VOLUME | {"networkVolumeId": "v2"}, VOLUME | {"networkVolumeId": "v3"}), now_us=0),
        ]
    )
    kept = bill.only("ep1", ("v1", "v3"))
    assert [(line.endpoint, line.volume) for line in kept.lines] == [("ep1", None), (None, "v1"), (None, "v3")]
    assert len(bill.only("ep1").lines) == 4


def test_a_day_that_two_bills_hold_is_refused_and_not_counted_twice() -> None:
    bills = [parse_bill(v2(SERVERLESS), now_us=0), parse_bill(v2(SERVERLESS), now_us=0)]
    with pytest.raises(ConfigurationError, match="same day of ep1: give each bill once"):
        joined(bills)


def test_workers_times_are_kept_beside_a_volumes_bill_and_dropped_beside_an_endpoint_without_them() -> None:
    worker = {"worker_id": "w1", "total_usd": "0.00209", "started_at": 10.5, "ready_at": 12, "stopped_at": 20}
    emulators = parse_bill(json.dumps({"workers": [worker]}).encode(), now_us=0)
    assert joined([emulators, parse_bill(v2(VOLUME), now_us=0)]).workers == emulators.workers
    assert joined([emulators, parse_bill(v2(SERVERLESS), now_us=0)]).workers == ()


@pytest.mark.parametrize("end", ["2026-05-12T00:00:00Z", "2026-05-06T00:00:01Z"])
def test_a_line_of_more_than_a_day_is_refused_and_says_what_to_ask_for(end: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^line 1 of the bill covers more than one day.*bucketSize=day"):
        parse_bill(v2(SERVERLESS | {"endTime": end}), now_us=0)


def test_an_amount_of_a_part_that_is_no_dollars_is_refused_with_its_name() -> None:
    with pytest.raises(ConfigurationError, match=r"^line 1 of the bill: feeAmount has an amount that is not dollars"):
        parse_bill(v2(SERVERLESS | {"feeAmount": "a lot"}), now_us=0)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[" * 200_000,
        b"<html>",
        b"{}",
        b"7",
        b'[{"time": "2026-05-05"}]',
        b'[{"amount": "much"}]',
        b'[{"amount": NaN}]',
        b'[{"amount": 1e99999999999999999999}]',
        b'[{"amount": 1, "time": "yesterday"}]',
    ],
)
def test_what_is_no_bill_is_refused_and_says_why(text: bytes) -> None:
    with pytest.raises(ConfigurationError, match="bill"):
        parse_bill(text, now_us=0)


@pytest.mark.parametrize("amount", ["1e9999999", '"1e9999999"', "1e900000", '"sNaN"', "-Infinity", "1" + "0" * 400])
def test_an_amount_beyond_every_bill_is_refused_with_its_line(amount: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^line 2 of the bill has an amount that is not dollars"):
        parse_bill(f'[{{"amount": 1}}, {{"amount": {amount}}}]'.encode(), now_us=0)


@pytest.mark.parametrize("time", ["NaN", "Infinity", "-Infinity", "1e400", "1e9999999", "1" + "0" * 400])
def test_a_time_beyond_every_calendar_is_refused_with_its_line(time: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^line 1 of the bill has a time that is not seconds since 1970"):
        parse_bill(f'[{{"amount": 1, "time": {time}}}]'.encode(), now_us=0)
    with pytest.raises(ConfigurationError, match=r"^worker 1 of the bill has a time"):
        parse_bill(f'{{"workers": [{{"total_usd": "1", "stopped_at": {time}}}]}}'.encode(), now_us=0)


def test_a_key_is_not_sent_where_it_could_be_read_on_the_way() -> None:
    with pytest.raises(ConfigurationError, match="https") as refused:
        read_bill("http://billing.invalid/v1", "secret")
    assert "secret" not in refused.value.message


def test_a_billing_api_that_cannot_be_reached_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"127\.0\.0\.1 cannot be reached"):
        read_bill("http://127.0.0.1:1/billing", "secret")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_bill("/nowhere/bill.json", None)
