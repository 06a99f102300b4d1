"""Keeps the lives of workers at own endpoints, and has them booked: one replica at a time, beside the requests.

Every replica's looks arrive here. The holder of the lease follows the lives from them, stores them and books what is
final. The others keep their last looks, so that the one that takes over goes on without a gap: it reads the open lives,
and catches up. The database may be slow or away meanwhile: looks go on to be followed in memory, within bounds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from vllm_service.accounting.lives import EndpointLives, LivesSettings
from vllm_service.autoscaling.life_books import LifeBooks, OwnEndpoint
from vllm_service.autoscaling.sights import sight_of
from vllm_service.catalog.model import Catalog, Provider, ProviderKind
from vllm_service.catalog.worker_prices import worker_price
from vllm_service.domain.status import BookingState
from vllm_service.domain.worker_lives import EndpointSight, WorkerLife
from vllm_service.errors import ServiceError
from vllm_service.logs import source_location
from vllm_service.routing.profiles import EndpointProfile
from vllm_service.runpod.health import EndpointHealth
from vllm_service.runpod.workers import EndpointWorkers
from vllm_service.storage.ledger.lease import DatabaseLease, LeaseLost
from vllm_service.storage.ledger.lives import LifeStore, put

_US = 1_000_000
_log = logging.getLogger(__name__)
#: Lives in one transaction.
_LIVES_AT_ONCE = 500


@dataclass(frozen=True, kw_only=True)
class KeeperSettings:
    """The times and bounds of the keeper."""

    #: Between two rounds.
    round_seconds: float = 5.0
    #: How long after a moment every request that began before it has ended, and has its row in the ledger, whatever
    #: the ledger's writers say.
    final_seconds: float = 610.0
    #: How far clocks of replicas, and a request's begin and its note as under way, may be apart.
    margin_seconds: float = 1.0
    #: An endpoint that was not seen for so long may have had workers all the same.
    blind_seconds: float = 120.0
    #: How long a replica without the lease keeps its looks.
    kept_seconds: float = 120.0
    #: Looks that wait for the next round; further ones push the oldest out.
    most_looks: int = 2_000
    #: Changed lives that wait for the database; further ones are dropped.
    most_unwritten: int = 10_000
    #: How long `close` waits for the database.
    close_seconds: float = 5.0


class LivesKeeper:
    """Implements endpoint_look.WorkerLives. catalog: the present configuration. clock: seconds since 1970."""

    def __init__(
        self,
        store: LifeStore,
        lease: DatabaseLease,
        catalog: Callable[[], Catalog],
        settings: KeeperSettings | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._lease = lease
        self._books = LifeBooks(store, lease)
        self._catalog = catalog
        self._settings = settings or KeeperSettings()
        self._clock = clock
        self._looks: deque[tuple[str, str, EndpointSight]] = deque(maxlen=self._settings.most_looks)
        #: By provider and endpoint id; None while another replica holds the lease, or the stored lives are to be read.
        self._lives: dict[tuple[str, str], EndpointLives] | None = None
        #: Changed lives that are not stored yet, by life_id.
        self._unwritten: dict[str, WorkerLife] = {}
        self._dropped = 0
        self._is_failing = False
        self._booked_until_us: int | None = None
        self._began_us = round(clock() * _US)

    def observe(
        self,
        provider: str,
        endpoint_id: str,
        workers: EndpointWorkers | None,
        health: EndpointHealth | None,
        now_us: int,
    ) -> None:
        """Implements endpoint_look.WorkerLives."""
        if len(self._looks) == self._looks.maxlen:
            self._drop(1, "looks at workers")
        self._looks.append((provider, endpoint_id, sight_of(workers, health, now_us)))

    async def run(self) -> None:
        """Runs rounds until it is cancelled."""
        while True:
            await self.round()
            await asyncio.sleep(self._settings.round_seconds)

    async def round(self) -> None:
        """Follows, stores and books what has come since the last round. Errors are logged, and tried again."""
        try:
            await self._worked()
        except LeaseLost:
            self._lives = None
        except ServiceError as error:
            if not self._is_failing:
                _log.warning("worker seconds cannot be booked now, and are later: %s", error.message)
            self._is_failing = True
        except Exception as error:  # whatever it is, requests are not to suffer, and the next round may succeed
            _log.error("worker seconds could not be booked: %s", source_location(error))
            self._is_failing = True
            self._lives = None
        else:
            if self._is_failing:
                _log.warning("worker seconds are booked again")
            self._is_failing = False

    async def close(self) -> None:
        """Stores what is known, and gives the lease to another replica, within some seconds."""
        # A call to a database that hangs may not end when it is cancelled, so it is left behind.
        work = asyncio.create_task(self._store_the_last())
        ended, _ = await asyncio.wait({work}, timeout=self._settings.close_seconds)
        if not ended:
            work.cancel()
        if not ended or isinstance(work.exception(), ServiceError):
            _log.warning("the last lives of workers may not be stored: the database did not answer in time")
        else:
            work.result()

    async def _store_the_last(self) -> None:
        if self._lives is not None:
            await self._follow(self._lives)
            await self._write()
        await self._lease.release()

    def status(self) -> BookingState:
        """Returns the state for health."""
        lag = None if self._booked_until_us is None else max(0.0, self._clock() - self._booked_until_us / _US)
        return BookingState(
            is_booking=self._lives is not None,
            is_failing=self._is_failing,
            open_lives=None if self._lives is None else sum(len(lives.open) for lives in self._lives.values()),
            waiting=len(self._looks) + len(self._unwritten),
            dropped=self._dropped,
            booked_lag_seconds=lag,
        )

    async def _worked(self) -> None:
        # Before the database is asked: while it is away the lives are followed all the same.
        if self._lives is None:
            self._forget_old_looks()
        else:
            await self._follow(self._lives)
        if not await self._lease.held():
            self._lives = None
            self._unwritten.clear()
            self._booked_until_us = None
            return
        if self._lives is None:
            self._lives = await self._restored()
            await self._follow(self._lives)
        await self._write()
        await self._book(self._lives)

    async def _restored(self) -> dict[tuple[str, str], EndpointLives]:
        """Returns the lives as they are stored, to go on with."""
        stored = await self._store.unsettled()
        lives = {(life.provider, life.endpoint_id): self._new(life.provider, life.endpoint_id) for life in stored}
        endpoints = {one.provider: one for one in self._endpoints()}
        lives |= {
            (one.provider, one.endpoint_id): self._new(one.provider, one.endpoint_id) for one in endpoints.values()
        }
        since = round((self._clock() - 3600) * _US)
        for (provider, endpoint_id), of_endpoint in lives.items():
            ended = await self._store.recently_settled(provider, since)
            of_endpoint.restore(
                life for life in (*ended, *stored) if (life.provider, life.endpoint_id) == (provider, endpoint_id)
            )
        return lives

    async def _follow(self, lives: dict[tuple[str, str], EndpointLives]) -> None:
        """Follows the lives by the looks that wait."""
        while self._looks:
            await asyncio.sleep(0)  # a look at a thousand workers takes 13 ms, in which no request is served
            provider, endpoint_id, sight = self._looks.popleft()
            if (provider, endpoint_id) not in lives:
                lives[provider, endpoint_id] = self._new(provider, endpoint_id)
            self._changed(lives[provider, endpoint_id].observe(sight))
        now_us = round(self._clock() * _US)
        for of_endpoint in lives.values():
            self._changed(of_endpoint.expire(now_us))

    def _changed(self, lives: Iterable[WorkerLife]) -> None:
        for life in lives:
            if life.life_id in self._unwritten or len(self._unwritten) < self._settings.most_unwritten:
                self._unwritten[life.life_id] = life
            else:
                self._drop(1, "lives of workers")

    async def _write(self) -> None:
        while self._unwritten:
            lives = list(self._unwritten.values())[:_LIVES_AT_ONCE]
            await self._lease.write(*map(put, lives))
            for life in lives:
                if self._unwritten.get(life.life_id) is life:
                    del self._unwritten[life.life_id]

    async def _book(self, lives: Mapping[tuple[str, str], EndpointLives]) -> None:
        final_us = await self._final_us()
        endpoints = {
            one.provider: replace(one, seen_until_us=self._seen_until(lives.get((one.provider, one.endpoint_id))))
            for one in self._endpoints()
        }
        try:
            booked = await self._books.book(endpoints, final_us)
        except ServiceError:
            # Whether the last slice was booked is not known: the stored lives say it.
            self._lives = None
            raise
        for life in booked:
            if (of_endpoint := lives.get((life.provider, life.endpoint_id))) is not None:
                of_endpoint.booked(life)
        self._booked_until_us = final_us

    async def _final_us(self) -> int:
        """Returns the moment before which every request that began has its row."""
        now = self._clock()
        at_latest = round((now - self._settings.final_seconds) * _US)
        complete = await self._store.complete_until_us()
        if complete is None:
            return at_latest
        return max(at_latest, min(complete, round(now * _US)) - round(self._settings.margin_seconds * _US))

    def _seen_until(self, lives: EndpointLives | None) -> int | None:
        """Returns when the endpoint was last seen; None: not for so long that nothing is waited for any more."""
        looked_at = None if lives is None else lives.looked_at_us
        seen_at = self._began_us if looked_at is None else max(looked_at, self._began_us)
        is_blind = self._clock() * _US - seen_at > self._settings.blind_seconds * _US
        return None if is_blind else looked_at or 0

    def _endpoints(self) -> list[OwnEndpoint]:
        return [
            OwnEndpoint(
                provider.name,
                provider.management.endpoint_id,
                _settings_of(provider).idle_timeout_us,
                None if provider.second_price is None else provider.second_price.picousd_per_microsecond,
            )
            for provider in self._catalog().providers.values()
            if provider.kind is ProviderKind.RUNPOD and provider.management is not None
        ]

    def _new(self, name: str, endpoint_id: str) -> EndpointLives:
        def price(gpu_type: str | None, gpu_count: int | None) -> int | None:
            provider = self._catalog().providers.get(name)
            found = None if provider is None else worker_price(provider, gpu_type, gpu_count)
            return None if found is None else found.picousd_per_microsecond

        provider = self._catalog().providers.get(name)
        return EndpointLives(name, endpoint_id, price, None if provider is None else _settings_of(provider))

    def _forget_old_looks(self) -> None:
        oldest_us = (self._clock() - self._settings.kept_seconds) * _US
        while self._looks and self._looks[0][2].at_us < oldest_us:
            self._looks.popleft()

    def _drop(self, count: int, what: str) -> None:
        if self._dropped % 1000 == 0:
            _log.error("%s are dropped since they wait for the database: some worker seconds are not booked", what)
        self._dropped += count


def _settings_of(provider: Provider) -> LivesSettings:
    expected = dict(provider.expected)
    default = EndpointProfile()
    idle_seconds = expected.get("idle_timeout_seconds", default.idle_timeout_seconds)
    cold_seconds = expected.get("cold_start_seconds", default.cold_start_seconds)
    return LivesSettings(idle_timeout_us=round(idle_seconds * _US), cold_start_us=round(cold_seconds * _US))
