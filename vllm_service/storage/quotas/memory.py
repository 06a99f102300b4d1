"""Limits of one process, in memory. A check and its reservation are atomic: no await lies between them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

from vllm_service.domain.keys import CONCURRENT_REQUESTS, REQUESTS_PER_MINUTE, ApiKey
from vllm_service.domain.quotas import (
    ADDRESS_REQUESTS_PER_SECOND,
    ADDRESS_WINDOW,
    KEY_WINDOW,
    Limit,
    RateWindow,
)
from vllm_service.domain.status import QuotaState
from vllm_service.errors import RateLimited
from vllm_service.storage.quotas.counters import Counts, Period, PeriodKey, Periods, SlidingWindow, both_bounded
from vllm_service.storage.quotas.refusals import allowed_by, period_wait_seconds, rejection, requested_amounts


class UnderWay:
    """The requests of one key, or of one organisation, that have not ended."""

    __slots__ = ("requests",)

    def __init__(self) -> None:
        self.requests = 0


class Owner(Protocol):
    """The quotas that a reservation belongs to."""

    def end(self, reservation: MemoryReservation) -> bool:
        """Ends the reservation's lease; returns False if it had ended before."""
        ...


class MemoryReservation:
    """Implements protocol.Reservation. It counts from when it is made, which is when every limit has room."""

    __slots__ = ("_day", "_month", "_owner", "_picousd", "_tokens", "expires_at_ms", "of_key", "of_organisation")

    def __init__(
        self,
        owner: Owner,
        *,
        expires_at_ms: int,
        amounts: tuple[int, int],
        counts: tuple[Period, Period, UnderWay, UnderWay],
    ) -> None:
        """Takes the request from its day and month, and counts it as under way. amounts: tokens, pico-dollars."""
        self._owner = owner
        self.expires_at_ms = expires_at_ms
        self._tokens, self._picousd = tokens, picousd = amounts
        day, month, of_key, of_organisation = counts
        self._day = day
        self._month = month
        day.reserve(tokens, picousd)
        month.reserve(tokens, picousd)
        #: The key's and the organisation's; `Owner.end` takes the request out of them.
        self.of_key = of_key
        self.of_organisation = of_organisation
        of_key.requests += 1
        of_organisation.requests += 1

    def give_back(self) -> None:
        """Takes it out of its day and month."""
        self._day.give_back(self._tokens, self._picousd)
        self._month.give_back(self._tokens, self._picousd)

    async def settle(self, tokens: int, cost_picousd: int) -> None:
        """Implements Reservation. An expired one is booked all the same, in its own periods: the tokens were used."""
        tokens, cost_picousd = both_bounded(tokens, cost_picousd)
        if not self._owner.end(self):
            self._day.reserve(self._tokens, self._picousd)
            self._month.reserve(self._tokens, self._picousd)
        self._day.settle(tokens, cost_picousd, self._tokens, self._picousd)
        self._month.settle(tokens, cost_picousd, self._tokens, self._picousd)

    async def release(self) -> None:
        """Implements Reservation. After its lease has expired there is nothing left to give back."""
        if self._owner.end(self):
            self.give_back()


#: Longer than any request may take (REQUEST_TIMEOUT_SECONDS): an older reservation belongs to a request that is gone.
LEASE_SECONDS = 900.0
SWEEP_SECONDS = 10.0
#: Of each kind. A flood of made-up addresses must not fill the memory.
_MAX_WINDOWS = 100_000


class MemoryQuotas:
    """Implements protocol.Quotas. saved: counts of earlier processes. `periods.unsaved` holds what this one adds."""

    def __init__(
        self,
        saved: Mapping[PeriodKey, Counts] | None = None,
        *,
        lease_seconds: float = LEASE_SECONDS,
        address_limit: int = ADDRESS_REQUESTS_PER_SECOND,
        sweep_seconds: float = SWEEP_SECONDS,
    ) -> None:
        self.periods = Periods(saved or {})
        self._lease_ms = int(lease_seconds * 1000)
        self._address_limit = address_limit
        self._key_windows: dict[str, SlidingWindow] = {}
        self._address_windows: dict[str, SlidingWindow] = {}
        #: By the key's id, and by the organisation.
        self._under_way: dict[str, UnderWay] = {}
        self._organisations_under_way: dict[str, UnderWay] = {}
        self._leases: set[MemoryReservation] = set()
        self._expired = 0
        #: No lease expires before this time. A lease that ends normally does not move it, which spares a search.
        self._first_expiry_ms: float = math.inf
        self._sweep_ms = int(sweep_seconds * 1000)
        self._swept_at_ms = 0

    async def reserve(
        self, key: ApiKey, client_ip: str | None, tokens: int, cost_picousd: int, now_seconds: float
    ) -> MemoryReservation:
        """Implements protocol.Quotas."""
        now_ms = int(now_seconds * 1000)
        # Expired leases first: what they give back may be just the room that this request needs.
        if now_ms >= self._first_expiry_ms:
            self._expire(now_ms)
        # The lower bound matters after a clock has gone back: without it, no sweep would come until it has caught up.
        if not self._swept_at_ms <= now_ms < self._swept_at_ms + self._sweep_ms:
            self._sweep(now_seconds)
        by_key = self._key_windows.get(key.id) or _window(self._key_windows, key.id, KEY_WINDOW)
        by_address = None
        key_bucket = by_key.advance(now_ms // KEY_WINDOW.bucket_ms)
        address_bucket = 0
        if client_ip is not None:
            known = self._address_windows
            by_address = known.get(client_ip) or _window(known, client_ip, ADDRESS_WINDOW)
            address_bucket = by_address.advance(now_ms // ADDRESS_WINDOW.bucket_ms)
        requested = both_bounded(tokens, cost_picousd)
        day, month = self.periods.at(key.organisation, now_seconds)
        windows = (by_key, by_address)
        of_key = self._under_way.get(key.id) or self._under_way.setdefault(key.id, UnderWay())
        organisations = self._organisations_under_way
        of_organisation = organisations.get(key.organisation) or organisations.setdefault(key.organisation, UnderWay())
        counts = (day, month, of_key, of_organisation)
        if not self._has_room(key, windows, counts, requested):
            raise self._rejection(key, windows, counts, requested, now_ms)
        by_key.take(key_bucket)
        if by_address is not None:
            by_address.take(address_bucket)
        expires_at_ms = now_ms + self._lease_ms
        reservation = MemoryReservation(self, expires_at_ms=expires_at_ms, amounts=requested, counts=counts)
        self._leases.add(reservation)
        self._first_expiry_ms = min(self._first_expiry_ms, expires_at_ms)
        return reservation

    def status(self) -> QuotaState:
        """Returns the state for health and metrics."""
        return QuotaState(len(self._leases), self._expired)

    def end(self, reservation: MemoryReservation) -> bool:
        """Implements Owner."""
        if reservation not in self._leases:
            return False
        self._leases.remove(reservation)
        reservation.of_key.requests -= 1
        reservation.of_organisation.requests -= 1
        return True

    def _expire(self, now_ms: int) -> None:
        """Gives back the reservations that were neither settled nor released in time, and finds the next to expire."""
        for reservation in [lease for lease in self._leases if lease.expires_at_ms <= now_ms]:
            self.end(reservation)
            reservation.give_back()
            self._expired += 1
        self._first_expiry_ms = min((lease.expires_at_ms for lease in self._leases), default=math.inf)

    def _sweep(self, now_seconds: float) -> None:
        """Drops the windows of idle keys and addresses, and periods that are long over."""
        now_ms = self._swept_at_ms = int(now_seconds * 1000)
        for windows in (self._key_windows, self._address_windows):
            for name in [name for name, window in windows.items() if window.is_idle(now_ms)]:
                del windows[name]
        for counts in (self._under_way, self._organisations_under_way):
            for name in [name for name, counted in counts.items() if not counted.requests]:
                del counts[name]
        self.periods.forget_before(now_seconds)

    def _has_room(
        self,
        key: ApiKey,
        windows: tuple[SlidingWindow, SlidingWindow | None],
        counts: tuple[Period, Period, UnderWay, UnderWay],
        requested: tuple[int, int],
    ) -> bool:
        limits = key.limits
        at_once = limits.concurrent_requests
        by_key, by_address = windows
        day, month, of_key, of_organisation = counts
        tokens, picousd = requested
        if at_once is not None and (
            of_key.requests >= CONCURRENT_REQUESTS[key.tier] or of_organisation.requests >= at_once
        ):
            return False
        return (
            by_key.total < REQUESTS_PER_MINUTE[key.tier]
            and (by_address is None or by_address.total < self._address_limit)
            and (limits.requests_per_day is None or day.requests < limits.requests_per_day)
            and (limits.tokens_per_day is None or day.tokens + tokens <= limits.tokens_per_day)
            and (limits.tokens_per_month is None or month.tokens + tokens <= limits.tokens_per_month)
            and (limits.picousd_per_month is None or month.picousd + picousd <= limits.picousd_per_month)
        )

    def _rejection(
        self,
        key: ApiKey,
        windows: tuple[SlidingWindow, SlidingWindow | None],
        counts: tuple[Period, Period, UnderWay, UnderWay],
        amounts: tuple[int, int],
        now_ms: int,
    ) -> RateLimited:
        allowed = allowed_by(key, self._address_limit)
        requested = requested_amounts(*amounts)
        return rejection(allowed, self._waits(allowed, windows, counts, requested, now_ms), requested)

    @staticmethod
    def _waits(
        allowed: Mapping[Limit, int | None],
        windows: tuple[SlidingWindow, SlidingWindow | None],
        counts: tuple[Period, Period, UnderWay, UnderWay],
        requested: Mapping[Limit, int],
        now_ms: int,
    ) -> dict[Limit, float]:
        """Returns the seconds to wait, of every limit that has no room. allowed: what each limit allows."""
        by_key, by_address = windows
        day, month, of_key, of_organisation = counts
        waits: dict[Limit, float] = {}
        for limit, window in ((Limit.REQUESTS_PER_MINUTE, by_key), (Limit.ADDRESS_REQUESTS_PER_SECOND, by_address)):
            most = allowed[limit]
            if window is not None and most is not None and window.total >= most:
                waits[limit] = window.wait_ms(now_ms) / 1000
        for limit, taken, settled in (
            (Limit.REQUESTS_PER_DAY, day.requests, day.settled_requests),
            (Limit.TOKENS_PER_DAY, day.tokens, day.settled_tokens),
            (Limit.TOKENS_PER_MONTH, month.tokens, month.settled_tokens),
            (Limit.USD_PER_MONTH, month.picousd, month.settled_picousd),
            (Limit.CONCURRENT_REQUESTS, of_key.requests, 0),
            (Limit.ORGANISATION_CONCURRENT_REQUESTS, of_organisation.requests, 0),
        ):
            # If it would fit beside what is settled, only reservations are in the way, and a short wait may help.
            most = allowed[limit]
            if most is not None and taken + requested[limit] > most:
                may_come_back = settled + requested[limit] <= most
                waits[limit] = period_wait_seconds(limit, now_ms / 1000, may_come_back)
        return waits


def _window(windows: dict[str, SlidingWindow], name: str, shape: RateWindow) -> SlidingWindow:
    """Makes a window. At the bound it drops the one first made: a flood of addresses can come between two sweeps."""
    if len(windows) >= _MAX_WINDOWS:
        del windows[next(iter(windows))]
    window = windows[name] = SlidingWindow(shape)
    return window
