"""Bills as RunPod and the emulator write them are read leniently and to the last unit."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vllm_service.accounting.bills import parse_bill, read_bill
from vllm_service.accounting.reconciliation import BilledAmount
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
    bill = parse_bill(json.dumps(document).encode(), now_us=0, endpoint="ep1")
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


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<html>",
        b"{}",
        b"7",
        b'[{"time": "2026-05-05"}]',
        b'[{"amount": "much"}]',
        b'[{"amount": NaN}]',
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
