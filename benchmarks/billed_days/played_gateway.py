"""The gateway's side of a played day: its looks at workers, its ledger, its booking, and the fetch of the bill."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from benchmarks.billed_days.agenda import Agenda
from benchmarks.billed_days.days import L4, OTHER_APPLICATION, RTX_4090, Ask, Day
from benchmarks.billed_days.played_workers import Ended
from vllm_service.autoscaling.bill_schedule import BillSchedule
from vllm_service.autoscaling.lives_keeper import KeeperSettings, LivesKeeper
from vllm_service.catalog.model import Catalog, Management, Provider, ProviderKind
from vllm_service.domain.cost_basis import EXPECTED
from vllm_service.domain.pricing import SecondPrice
from vllm_service.domain.requests import Outcome, RequestRecord
from vllm_service.domain.usage import Usage
from vllm_service.runpod.endpoint import SendHttp
from vllm_service.runpod.workers import parse_workers
from vllm_service.storage.ledger.billed_days import BilledDayStore
from vllm_service.storage.ledger.columns import REQUESTS
from vllm_service.storage.ledger.lease import DatabaseLease
from vllm_service.storage.ledger.lives import LifeStore
from vllm_service.storage.ledger.rows import row_of
from vllm_service.storage.sql.database import Database, Rows

OWN = "own"
ENDPOINT = "local"
_US = 1_000_000
#: A full worker runs four requests at once: what the router expects a request to cost.
_SLOTS = 4


class PlayedGateway:
    """One gateway after another on one database: `restart` is what a gateway that was down for a while comes to."""

    def __init__(self, database: Database, agenda: Agenda, origin: str, day: Day, send: SendHttp) -> None:
        self._database = database
        self._agenda = agenda
        self._send = send
        self._catalog = partial(catalog_of, origin, day)
        self._lives = LifeStore(database)
        self._days = BilledDayStore(database)
        self._unwritten: list[RequestRecord] = []
        self._written = 0
        self._starts = 0
        self._keeper = self._started()

    def restart(self) -> None:
        """Starts another gateway in place of one that was killed."""
        self._keeper = self._started()

    def look(self, listed: Mapping[str, Any]) -> None:
        """Takes one look at the endpoint's list of workers, as RunPod's REST API answers it."""
        self._keeper.observe(OWN, ENDPOINT, parse_workers(listed), None, round(self._agenda() * _US))

    def answered(self, ask: Ask, ended: Ended) -> None:
        """Records the request; one that came past the gateway is not known here."""
        if ask.caller != OTHER_APPLICATION:
            self._unwritten.append(_record(ask, ended, self._written + len(self._unwritten)))

    async def round(self) -> None:
        """Writes the rows that wait, and books what is final."""
        if self._unwritten:
            rows = [row_of(record, 1, self._written + number) for number, record in enumerate(self._unwritten)]
            await self._database.write(Rows(REQUESTS, rows))
            self._written += len(rows)
            self._unwritten = []
        await self._keeper.round()

    async def fetch_bills(self) -> None:
        """Fetches the bills that are due, and applies them."""
        lease = DatabaseLease(self._database, "bills", "the only one", clock=self._agenda)
        await BillSchedule(self._catalog, self._send, self._days, self._lives, lease, clock=self._agenda).round()

    def _started(self) -> LivesKeeper:
        self._starts += 1
        lease = DatabaseLease(self._database, "lives", f"gateway {self._starts}", clock=self._agenda)
        return LivesKeeper(self._lives, lease, self._catalog, KeeperSettings(), clock=self._agenda)


def catalog_of(origin: str, day: Day) -> Catalog:
    """Returns the configuration of a gateway with the endpoint, at RunPod's prices."""
    provider = Provider(
        OWN,
        ProviderKind.RUNPOD,
        f"{origin}/v2/{ENDPOINT}/openai/v1",
        management=Management(ENDPOINT, origin),
        second_price=SecondPrice.per_second(L4.usd_per_second),
        gpu_prices=tuple((gpu.type_id, SecondPrice.per_second(gpu.usd_per_second)) for gpu in (L4, RTX_4090)),
        expected=(("idle_timeout_seconds", day.idle_timeout_seconds), ("cold_start_seconds", 40.0)),
    )
    return Catalog({OWN: provider}, {})


def _record(ask: Ask, ended: Ended, number: int) -> RequestRecord:
    price = SecondPrice.per_second(L4.usd_per_second)
    return RequestRecord(
        request_id=f"request-{number}",
        started_at=ask.at,
        key_id=ask.caller,
        organisation=ask.caller,
        operation="chat.completions",
        model="m",
        outcome=Outcome.COMPLETED,
        status=200,
        provider=OWN,
        usage=Usage(100, 100),
        cost_picousd=price.cost_picousd(round(ask.execution_seconds * _US)) // _SLOTS,
        cost_basis=EXPECTED,
        total_ms=(ended.ended_at - ask.at) * 1000,
        attempts=1,
    )
