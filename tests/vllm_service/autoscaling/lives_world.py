"""True workers, the looks at them, and replicas that keep and book their lives in a real database."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vllm_service.autoscaling.lives_keeper import KeeperSettings, LivesKeeper
from vllm_service.catalog.model import Catalog, Management, Provider, ProviderKind
from vllm_service.domain.cost_basis import CostBasis
from vllm_service.domain.pricing import SecondPrice
from vllm_service.domain.requests import Outcome, RequestRecord
from vllm_service.runpod.workers import EndpointWorkers, SeenWorker, WorkerStatus
from vllm_service.storage.ledger.columns import REQUESTS
from vllm_service.storage.ledger.lease import DatabaseLease
from vllm_service.storage.ledger.lives import LifeStore
from vllm_service.storage.ledger.reader import LedgerReader
from vllm_service.storage.ledger.rows import row_of
from vllm_service.storage.sql.database import Database, Rows

PRICE = 310
SECOND = PRICE * 10**6
T = 1_796_000_040.0
FINAL = 60.0
SETTINGS = KeeperSettings(final_seconds=FINAL)


#: Prices of a second on GPU types that a pool mixes.
GPU_PRICES = {"NVIDIA L4": 190, "NVIDIA L40S": 530}


def catalog(price: int | None = PRICE) -> Catalog:
    own = Provider(
        "own",
        ProviderKind.RUNPOD,
        "https://api.runpod.ai/v2/ep/openai/v1",
        second_price=None if price is None else SecondPrice(price),
        gpu_prices=tuple((name, SecondPrice(of_type)) for name, of_type in GPU_PRICES.items()),
        expected=(("idle_timeout_seconds", 5.0),),
        management=Management("ep", "https://api.runpod.io"),
    )
    return Catalog({"own": own}, {})


@dataclass
class World:
    """A database, a clock, and replicas that look at one endpoint."""

    database: Database
    catalog: Catalog = field(default_factory=catalog)
    now: float = 0.0
    #: Monotonic, so that it also moves where `now` jumps.
    passed: float = 0.0
    rows: int = 0

    def keeper(self, name: str, database: Database | None = None) -> LivesKeeper:
        used = database or self.database
        lease = DatabaseLease(used, "lives", name, lease_seconds=30.0, clock=lambda: self.passed)
        return LivesKeeper(LifeStore(used), lease, lambda: self.catalog, SETTINGS, lambda: T + self.now)

    async def ran(self, start: float, end: float, provider: str = "own", **fields: Any) -> None:
        """Writes the row of a request."""
        self.rows += 1
        known: dict[str, Any] = {"outcome": Outcome.COMPLETED, "status": 200, "key_id": "k"}
        known |= {"cost_basis": CostBasis.EXPECTED, "cost_picousd": 1}
        record = RequestRecord(
            request_id=f"r{self.rows}", started_at=T + start, organisation="o", operation="chat",
            model="m", provider=provider, total_ms=(end - start) * 1000, **(known | fields),
        )  # fmt: skip
        await self.database.write(Rows(REQUESTS, [row_of(record, 1, self.rows)]))

    async def booked(self) -> dict[str, tuple[float, float, float]]:
        """Seconds of execution, cold start and idling of the rows that are booked."""
        return {
            row.request_id: tuple(
                (part or 0) / SECOND for part in (row.execution_picousd, row.cold_start_picousd, row.idle_picousd)
            )  # type: ignore[misc]
            async for _, row in LedgerReader(self.database).records()
            if row.cost_basis is CostBasis.BOOKED
        }

    async def sums(self) -> tuple[int, int, int]:
        """What rows pay, what no request caused, and what lives cost as far as they are booked; in pico-dollars."""
        rows = [row async for _, row in LedgerReader(self.database).records() if row.cost_basis is CostBasis.BOOKED]
        assert all(
            row.cost_picousd == (row.execution_picousd or 0) + (row.cold_start_picousd or 0) + (row.idle_picousd or 0)
            for row in rows
        )
        first = int(T // 86_400)
        days = await LifeStore(self.database).days("own", first - 1, first + 1)
        lives = await self.database.fetch("SELECT booked_picousd FROM worker_lives")
        return (
            sum(row.cost_picousd or 0 for row in rows),
            sum(day.nobody_picousd for day in days),
            sum(booked for (booked,) in lives),
        )

    async def pass_time(self, until: float, *keepers: LivesKeeper, lives: list[Lived], step: float = 2.0) -> None:
        """Lets every replica look each two seconds, and work every third time."""
        while self.now < until:
            self.now += step
            self.passed += step
            for keeper in keepers:
                keeper.observe("own", "ep", seen(lives, self.now), None, round((T + self.now) * 10**6))
                if round(self.now / step) % 3 == 0:
                    await keeper.round()

    async def pass_day(self, until: float, keeper: LivesKeeper, lives: list[Lived]) -> None:
        """Lets the replica look each two seconds while workers live, and seldom while none does."""
        while self.now < until:
            is_quiet = not any(life.start - 16 < self.now < life.stop + 16 for life in lives)
            await self.pass_time(
                self.now + (14.0 if is_quiet else 2.0), keeper, lives=lives, step=14.0 if is_quiet else 2.0
            )


@dataclass(frozen=True)
class Lived:
    """A true worker."""

    start: float
    ready: float
    stop: float
    name: str = "w"
    #: When another application used it.
    others: tuple[float, float] = (0.0, 0.0)
    #: When it was at work for requests of ours.
    busy: tuple[tuple[float, float], ...] = ()
    gpu_type: str | None = None


def seen(lives: list[Lived], at: float) -> EndpointWorkers:
    def status(life: Lived) -> WorkerStatus:
        if at < life.ready:
            return WorkerStatus.INITIALIZING
        is_running = any(begin <= at < end for begin, end in (life.others, *life.busy))
        return WorkerStatus.RUNNING if is_running else WorkerStatus.IDLE

    return EndpointWorkers(
        tuple(
            SeenWorker(
                life.name,
                status(life),
                gpu_type=life.gpu_type,
                gpu_count=None if life.gpu_type is None else 1,
                started_at_us=round((T + life.start) * 10**6),
            )
            for life in lives
            if life.start <= at < life.stop
        )
    )
