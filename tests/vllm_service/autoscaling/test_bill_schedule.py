"""The hourly fetch of bills: which days and volumes are asked for, from one replica, and what a failure leaves."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from msgspec.structs import replace

from tests.vllm_service.runpod.scripted import Scripted, problem, says, scripted
from tests.vllm_service.storage.ledger.test_ledger import RECORD
from vllm_service.autoscaling.bill_schedule import BillSchedule
from vllm_service.catalog.model import Catalog, Management, ManagementApi, Provider, ProviderKind
from vllm_service.domain.bill import DAY_US
from vllm_service.domain.cost_basis import BOOKED, CostBasis
from vllm_service.runpod.command_http import open_send
from vllm_service.storage.ledger.billed_days import BilledDayStore
from vllm_service.storage.ledger.lease import DatabaseLease
from vllm_service.storage.ledger.lives import BookedDay, LifeStore, add_to_day
from vllm_service.storage.ledger.reader import LedgerReader
from vllm_service.storage.ledger.writer import LedgerWriter
from vllm_service.storage.open import open_database
from vllm_service.storage.sql.database import Database

DAY = 20_759  # 2026-11-02
SECRET = "rpa_secret"


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = await open_database(None, tmp_path)
    yield database
    await database.close()


@dataclass
class Ledger:
    """A ledger with one request on a day, and RunPod's answers."""

    database: Database
    script: Scripted
    #: Seconds since 1970: two o'clock of the day after.
    now: float = ((DAY + 1) * DAY_US) / 1e6 + 7200
    origins: dict[str, str] = field(default_factory=dict)

    async def keep(self, day: int = DAY, picousd: int = 10**12) -> None:
        writer = await LedgerWriter.open(self.database)
        parts = {"execution_picousd": picousd, "cold_start_picousd": 0, "idle_picousd": 0}
        started = (day * DAY_US) / 1e6 + 3600
        writer.record(
            replace(RECORD, started_at=started, provider="own", cost_picousd=picousd, cost_basis=BOOKED, **parts)
        )
        await writer.close()
        await self.database.write(add_to_day(BookedDay("own", "ep", day, 1, picousd, 0, 0, 0, 0)))

    def schedule(self, send: Any, holder: str = "one", *names: str) -> BillSchedule:
        providers = {name: self.provider(name) for name in names or ("own",)}
        hosted = Provider("hosted", ProviderKind.HOSTED, "http://127.0.0.1:9/v1")
        old = self.provider("old", ManagementApi.V1)
        catalog = Catalog(providers | {"hosted": hosted, "old": old}, {})
        return BillSchedule(
            lambda: catalog,
            send,
            BilledDayStore(self.database),
            LifeStore(self.database),
            DatabaseLease(self.database, "bills", holder),
            clock=lambda: self.now,
        )

    def provider(self, name: str, api: ManagementApi = ManagementApi.V2) -> Provider:
        origin = self.origins.get(name, self.script.origin)
        url = "http://127.0.0.1:9/v1"
        return Provider(name, ProviderKind.RUNPOD, url, SECRET, management=Management(f"ep-{name}", origin, api))

    async def costs(self) -> list[tuple[int | None, CostBasis | None]]:
        rows = [record async for _, record in LedgerReader(self.database).records()]
        return [(record.cost_picousd, record.cost_basis) for record in rows]

    def asked(self) -> list[tuple[str, dict[str, str]]]:
        targets = [urlsplit(target) for _, target, _, _ in self.script.asked]
        return [(target.path, dict(parse_qsl(target.query))) for target in targets]


@pytest.fixture
async def ledger(database: Database) -> AsyncIterator[Ledger]:
    async with scripted() as script:
        yield Ledger(database, script)


def endpoint(*volumes: str) -> bytes:
    return says({"id": "ep-own", "networkVolumes": volumes})


def day_of(number: int) -> str:
    return f"{datetime.fromtimestamp(number * 86_400, UTC):%Y-%m-%dT00:00:00Z}"


def serverless(usd: float, day: int = DAY, name: str = "own") -> bytes:
    amounts = {"totalAmount": usd, "gpuAmount": usd, "cpuAmount": 0, "diskAmount": 0, "feeAmount": 0}
    record = {"startTime": day_of(day), "endTime": day_of(day + 1), "serverlessId": f"ep-{name}"}
    return says({"records": [record | amounts]})


def volume(usd: float, name: str, day: int = DAY) -> bytes:
    amounts = {"totalAmount": usd, "standardAmount": usd, "highPerformanceAmount": 0}
    return says({"records": [{"startTime": day_of(day), "networkVolumeId": name} | amounts]})


async def test_yesterdays_bill_is_fetched_with_its_volumes_and_booked(ledger: Ledger) -> None:
    await ledger.keep()
    ledger.script.answers = [endpoint("v1"), serverless(1.02), volume(0.07, "v1")]
    async with open_send() as send:
        await ledger.schedule(send).round()
    assert await ledger.costs() == [(1_020_000_000_000, CostBasis.BILLED)]
    (day,) = await BilledDayStore(ledger.database).days(DAY, DAY)
    assert (day.gpu_picousd, day.volume_picousd) == (1_020_000_000_000, 70_000_000_000)
    window = {"startTime": day_of(DAY - 2), "endTime": day_of(DAY + 1), "bucketSize": "day"}
    assert ledger.asked() == [
        ("/v2/serverless/ep-own", {}),
        ("/v2/billing/serverless", window | {"serverlessId": "ep-own"}),
        ("/v2/billing/network-volumes", window | {"networkVolumeId": "v1"}),
    ]


async def test_a_bill_that_changes_later_is_applied_again_and_an_old_day_is_not_asked_for(ledger: Ledger) -> None:
    await ledger.keep()
    ledger.script.answers = [
        endpoint(),
        serverless(1.02),
        endpoint(),
        serverless(0.9),
        endpoint(),
        says({"records": []}),
    ]
    async with open_send() as send:
        schedule = ledger.schedule(send)
        await schedule.round()
        ledger.now += 3600
        await schedule.round()
        assert await ledger.costs() == [(900_000_000_000, CostBasis.BILLED)]
        ledger.now += 4 * 86_400
        await schedule.round()
    assert ledger.asked()[-1][1]["startTime"] == day_of(DAY + 2)
    assert await ledger.costs() == [(900_000_000_000, CostBasis.BILLED)]


async def test_a_day_that_was_never_billed_is_asked_for_until_a_month_is_over(ledger: Ledger) -> None:
    await ledger.keep(DAY - 40)
    await ledger.keep(DAY - 20)
    ledger.script.answers = [endpoint(), serverless(0.5, DAY - 20)]
    async with open_send() as send:
        await ledger.schedule(send).round()
    assert ledger.asked()[1][1]["startTime"] == day_of(DAY - 20)
    assert sorted(cost or 0 for cost, _ in await ledger.costs()) == [500_000_000_000, 10**12]


async def test_only_one_replica_fetches_until_it_has_gone(ledger: Ledger) -> None:
    ledger.script.answers = [endpoint(), serverless(1)]
    async with open_send() as send:
        await ledger.schedule(send).round()
        await ledger.schedule(send, "two").round()
    assert len(ledger.script.asked) == 2


async def test_a_volume_that_two_endpoints_use_is_billed_once(ledger: Ledger) -> None:
    first = [endpoint("shared"), serverless(1), volume(0.07, "shared")]
    ledger.script.answers = [*first, endpoint("shared"), serverless(1, name="more")]
    async with open_send() as send:
        await ledger.schedule(send, "one", "own", "more").round()
    volumes = {day.provider: day.volume_picousd for day in await BilledDayStore(ledger.database).days(DAY, DAY)}
    assert volumes == {"own": 70_000_000_000, "more": None}


async def test_a_bill_that_cannot_be_had_is_one_warning_and_stops_no_other(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    await ledger.keep()
    refused = problem(403, "this key may not")
    ledger.script.answers = [refused, endpoint(), serverless(0.9), refused, endpoint(), serverless(0.9)]
    caplog.set_level(logging.WARNING)
    async with open_send() as send:
        schedule = ledger.schedule(send, "one", "refused", "own")
        await schedule.round()
        await schedule.round()
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith("the bill of refused could not be booked, tried again in an hour: ")
    assert "give the key Read Only" in warning
    assert SECRET not in warning
    assert await ledger.costs() == [(900_000_000_000, CostBasis.BILLED)]


@pytest.mark.parametrize("named", [None, "v1", [7, None, ""], {"v1": 1}])
async def test_volumes_of_another_form_are_none(ledger: Ledger, named: object) -> None:
    ledger.script.answers = [says({"networkVolumes": named}), serverless(1)]
    async with open_send() as send:
        await ledger.schedule(send).round()
    assert [path for path, _ in ledger.asked()] == ["/v2/serverless/ep-own", "/v2/billing/serverless"]
