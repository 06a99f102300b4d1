"""Plays one day on the emulator and compares: booked before the bill, billed after it, and each caller's part."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from itertools import cycle
from pathlib import Path

from benchmarks.billed_days.agenda import Agenda
from benchmarks.billed_days.days import CALLERS, DAY_BEGINS_AT, SECONDS_PER_DAY, Ask, Day
from benchmarks.billed_days.played_gateway import ENDPOINT, PlayedGateway
from benchmarks.billed_days.played_workers import Ended, PlayedWorkers
from runpod_emulator import Emulator, EndpointSettings
from runpod_emulator.api.rest.endpoint_documents import workers_document
from runpod_emulator.billing.rates import BillingRates
from runpod_emulator.endpoint.placement import Placement
from vllm_service.accounting.booking import RanRequest, WorkerBill, book
from vllm_service.domain.money import picousd
from vllm_service.domain.spend import WORKER_PARTS, Spend, SpendPart
from vllm_service.runpod.command_http import open_send
from vllm_service.storage.ledger.billed_days import BilledDay, BilledDayStore
from vllm_service.storage.ledger.reader import GroupBy, LedgerReader
from vllm_service.storage.ledger.spend import spend_by_day
from vllm_service.storage.open import open_database

DAY = round(DAY_BEGINS_AT / SECONDS_PER_DAY)
_US = 1_000_000
#: Between two looks at workers, and between two rounds of booking.
LOOK_SECONDS = 5.0
ROUND_SECONDS = 60.0
#: A fee beside the GPUs' price, so that the bill has one.
RATES = BillingRates(fee_share=Decimal("0.02"))


@dataclass(frozen=True)
class PlayedDay:
    """The ledger's figures of a day, beside the true ones. Amounts are pico-dollars."""

    day: Day
    requests: int
    workers: int
    #: What the ledger had before the bill came.
    booked: Spend
    #: What it has since.
    billed: Spend
    bill: BilledDay
    #: By caller: by the ledger after the bill; by the same rows with the true times of workers; and with everything
    #: that is true: where each request ran, which ones waited for a worker's start, and what came past the gateway.
    by_ledger: Mapping[str, int]
    by_true_times: Mapping[str, int]
    by_everything: Mapping[str, int]

    @property
    def compute_picousd(self) -> int:
        """The bill's amount for workers."""
        return self.bill.compute_picousd or 0

    @property
    def booked_percent(self) -> float:
        """How much more the ledger had for workers before the bill than the bill, in percent."""
        return 100 * (_workers_picousd(self.booked) / self.compute_picousd - 1)

    @property
    def off_picousd(self) -> int:
        """How much more the ledger has for workers than the bill, once it was applied."""
        unexplained = self.billed.by_part().get(SpendPart.UNEXPLAINED, 0)
        return _workers_picousd(self.billed) + unexplained - self.compute_picousd

    def worst_caller_percent(self, true: Mapping[str, int]) -> float:
        """Returns how far the caller's part is off that is off most, in percent of its true part."""
        return max((100 * (self.by_ledger.get(name, 0) / amount - 1) for name, amount in true.items()), key=abs)


@dataclass
class _Stage:
    """The emulator and the gateway of one day, while it is played."""

    day: Day
    agenda: Agenda
    emulator: Emulator
    gateway: PlayedGateway
    workers: PlayedWorkers
    ran: list[tuple[Ask, Ended]] = field(default_factory=list)

    async def play(self, asks: list[Ask]) -> None:
        """Plays until the day's last seconds are booked."""
        for ask in asks:
            self.agenda.at(ask.at, partial(self._ask, ask))
        is_down = False
        end = DAY_BEGINS_AT + SECONDS_PER_DAY + 1500
        round_at = DAY_BEGINS_AT
        while (now := self.agenda()) < end:
            if self.day.is_down(now) != is_down:
                is_down = not is_down
                if not is_down:
                    self.gateway.restart()
            if not is_down:
                self.gateway.look(workers_document(self.emulator.account.first))
                if now >= round_at:
                    round_at = now + ROUND_SECONDS
                    await self.gateway.round()
            self.agenda.run_until(now + LOOK_SECONDS)

    def true_bill(self) -> list[WorkerBill]:
        """Returns each worker's true times and cost."""
        lines = self.emulator.endpoint.registry.bill(0.0).lines
        return [
            WorkerBill(
                line.worker_id,
                ENDPOINT,
                round(line.times.started_at * _US),
                round((line.times.stopped_at or self.agenda()) * _US),
                picousd(line.usd),
                None if line.times.ready_at is None else round(line.times.ready_at * _US),
            )
            for line in lines
            if line.times is not None
        ]

    def _ask(self, ask: Ask) -> None:
        self.workers.ask(ask.execution_seconds, partial(self._ended, ask))

    def _ended(self, ask: Ask, ended: Ended) -> None:
        self.ran.append((ask, ended))
        self.gateway.answered(ask, ended)


async def played(day: Day, directory: Path, seed: int = 1) -> PlayedDay:
    """Plays the day, lets the bill come, and returns what ledger and emulator know. directory: new and empty."""
    agenda = Agenda(DAY_BEGINS_AT)
    settings = EndpointSettings(
        endpoint_id=ENDPOINT,
        scaling=day.scaling,
        max_workers=day.max_workers,
        idle_timeout_seconds=day.idle_timeout_seconds,
    )
    emulator = Emulator(settings, rest_quotas={}, rates=RATES, clock=agenda, clock_began_at=0.0)
    database = await open_database(None, directory)
    draw = random.Random(seed)  # noqa: S311 - traffic, not secrets
    async with emulator, open_send() as send:
        gateway = PlayedGateway(database, agenda, emulator.origin, day, send)
        placements = cycle(Placement(gpu_type_id=gpu.type_id, usd_per_second=gpu.usd_per_second) for gpu in day.gpus)
        workers = PlayedWorkers(emulator.endpoint, agenda, draw, placements, cold_start_seconds=day.cold_start_seconds)
        stage = _Stage(day, agenda, emulator, gateway, workers)
        await stage.play(day.asks(draw))
        booked = Spend.of(await spend_by_day(database, DAY, DAY))
        agenda.run_until(DAY_BEGINS_AT + SECONDS_PER_DAY + 7200)
        await gateway.fetch_bills()
        billed = Spend.of(await spend_by_day(database, DAY, DAY))
        (bill,) = await BilledDayStore(database).days(DAY, DAY)
        totals = await LedgerReader(database).totals([GroupBy.ORGANISATION])
        true_bill = stage.true_bill()
    await database.close()
    by_ledger = {str(one.group[0]): one.cost_picousd for one in totals}
    true_times, everything = _by_true_times(true_bill, stage.ran), _by_everything(true_bill, stage.ran)
    count = sum(ask.caller in CALLERS for ask, _ in stage.ran)
    return PlayedDay(day, count, len(true_bill), booked, billed, bill, by_ledger, true_times, everything)


def _by_true_times(workers: list[WorkerBill], ran: list[tuple[Ask, Ended]]) -> dict[str, int]:
    """Returns each caller's part as `reconcile --book` attributes a bill with the times of workers."""
    known = [(ask, ended) for ask, ended in ran if ask.caller in CALLERS]
    return _sums(workers, [_request(number, *one) for number, one in enumerate(known)], [ask for ask, _ in known])


def _by_everything(workers: list[WorkerBill], ran: list[tuple[Ask, Ended]]) -> dict[str, int]:
    """Returns each caller's part by the rule of docs/accounting.md, as it is for who knows everything."""
    requests = [replace(_request(number, *one), worker_id=one[1].worker_id) for number, one in enumerate(ran)]
    waited = [(str(number), ask.at * _US, ended.taken_at * _US) for number, (ask, ended) in enumerate(ran)]
    woken = [
        replace(worker, woken_by=tuple(name for name, since, until in waited if since <= worker.started_us + 1 < until))
        for worker in workers
    ]
    return _sums(woken, requests, [ask for ask, _ in ran])


def _request(number: int, ask: Ask, ended: Ended) -> RanRequest:
    return RanRequest(str(number), ENDPOINT, round(ask.at * _US), round(ended.ended_at * _US))


def _sums(workers: list[WorkerBill], requests: list[RanRequest], asks: list[Ask]) -> dict[str, int]:
    sums: defaultdict[str, int] = defaultdict(int)
    for booking in book(workers, requests):
        if booking.request_id is not None:
            sums[asks[int(booking.request_id)].caller] += booking.total_picousd
    return {caller: sums[caller] for caller in CALLERS if sums[caller]}


def _workers_picousd(spend: Spend) -> int:
    amounts = spend.by_part()
    return sum(amounts.get(part, 0) for part in (*WORKER_PARTS, SpendPart.REQUESTS))
