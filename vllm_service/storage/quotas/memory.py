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
    MOST_OF_ONE_REQUEST,
    Limit,
)
from vllm_service.domain.status import QuotaState
from vllm_service.errors import RateLimited
from vllm_service.storage.quotas.counters import Counts, Period, PeriodKey, Periods, SlidingWindow, both_bounded
from vllm_service.storage.quotas.refusals import allowed_by, period_wait_seconds, rejection, requested_amounts


class UnderWay:
    """The requests of one organisation that have not ended."""

    __slots__ = ("requests",)

    def __init__(self) -> None:
        self.requests = 0


class KeyUse:
    """One key's use of its limits."""

    __slots__ = ("of_organisation", "requests", "window")

    def __init__(self, of_organisation: UnderWay) -> None:
        #: Its requests that have not ended.
        self.requests = 0
        #: Of all keys of its organisation.
        self.of_organisation = of_organisation
        self.window = SlidingWindow(KEY_WINDOW)


#: What one request counts in: its key, its address if it has one, its organisation's day and month.
Counted = tuple[KeyUse, SlidingWindow | None, Period, Period]


class Owner(Protocol):
    """The quotas that a reservation belongs to."""

    def end(self, reservation: MemoryReservation) -> bool:
        """Ends the reservation's lease; returns False if it had ended before."""
        ...


class MemoryReservation:
    """Implements protocol.Reservation. It counts from when it is made, which is when every limit has room."""

    __slots__ = ("_day", "_month", "_owner", "_picousd", "_tokens", "expires_at_ms", "of_key")

    def __init__(self, owner: Owner, expires_at_ms: int, tokens: int, picousd: int, counted: Counted) -> None:
        """Takes the request from its day and month, and counts it as under way."""
        self._owner = owner
        self.expires_at_ms = expires_at_ms
        self._tokens = tokens
        self._picousd = picousd
        #: `Owner.end` takes the request out of the key's and the organisation's.
        self.of_key, _, self._day, self._month = counted
        of_key, _, day, month = counted
        day.reserve(tokens, picousd)
        month.reserve(tokens, picousd)
        of_key.requests += 1
        of_key.of_organisation.requests += 1

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
#: Of keys, and of addresses. A flood of made-up addresses must not fill the memory.
_MAX_WINDOWS = 100_000
_KEY_BUCKET_MS = KEY_WINDOW.bucket_ms
_ADDRESS_BUCKET_MS = ADDRESS_WINDOW.bucket_ms


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
        #: By the key's id.
        self._keys: dict[str, KeyUse] = {}
        self._address_windows: dict[str, SlidingWindow] = {}
        #: By the organisation. There is one for every organisation that has a key in `_keys`.
        self._organisations: dict[str, UnderWay] = {}
        self._leases: set[MemoryReservation] = set()
        self._expired = 0
        #: No lease expires before this time. A lease that ends normally does not move it, which spares a search.
        self._first_expiry_ms: float = math.inf
        self._sweep_ms = int(sweep_seconds * 1000)
        self._swept_at_ms = 0
        #: When the next lease expires, or the next sweep comes.
        self._due_ms: float = 0

    async def reserve(
        self, key: ApiKey, client_ip: str | None, tokens: int, cost_picousd: int, now_seconds: float
    ) -> MemoryReservation:
        """Implements protocol.Quotas."""
        now_ms = int(now_seconds * 1000)
        # The lower bound matters after a clock has gone back: without it, no sweep would come until it has caught up.
        if not self._swept_at_ms <= now_ms < self._due_ms:
            self._tidy(now_ms, now_seconds)
        of_key = self._keys.get(key.id) or self._new_key(key)
        by_key = of_key.window
        key_bucket = now_ms // _KEY_BUCKET_MS
        if key_bucket != by_key.newest:  # nothing has left the window since the last request
            key_bucket = by_key.advance(key_bucket)
        by_address = None
        address_bucket = 0
        if client_ip is not None:
            by_address = self._address_windows.get(client_ip) or self._new_address(client_ip)
            address_bucket = by_address.advance(now_ms // _ADDRESS_BUCKET_MS)
        if not (0 <= tokens <= MOST_OF_ONE_REQUEST and 0 <= cost_picousd <= MOST_OF_ONE_REQUEST):
            tokens, cost_picousd = both_bounded(tokens, cost_picousd)
        counted = (of_key, by_address, *self.periods.at(key.organisation, now_seconds))
        if not self._has_room(key, counted, tokens, cost_picousd):
            raise self._rejection(key, counted, tokens, cost_picousd, now_ms)
        by_key.take(key_bucket)
        if by_address is not None:
            by_address.take(address_bucket)
        expires_at_ms = now_ms + self._lease_ms
        reservation = MemoryReservation(self, expires_at_ms, tokens, cost_picousd, counted)
        self._leases.add(reservation)
        if expires_at_ms < self._first_expiry_ms:
            self._first_expiry_ms = expires_at_ms
            self._due_ms = min(self._due_ms, expires_at_ms)
        return reservation

    def status(self) -> QuotaState:
        """Returns the state for health and metrics."""
        return QuotaState(len(self._leases), self._expired)

    def end(self, reservation: MemoryReservation) -> bool:
        """Implements Owner."""
        try:
            self._leases.remove(reservation)
        except KeyError:
            return False
        of_key = reservation.of_key
        of_key.requests -= 1
        of_key.of_organisation.requests -= 1
        return True

    def _tidy(self, now_ms: int, now_seconds: float) -> None:
        """Ends leases that have expired, and sweeps if it is time."""
        # Expired leases first: what they give back may be just the room that the request at hand needs.
        if now_ms >= self._first_expiry_ms:
            self._expire(now_ms)
        if not self._swept_at_ms <= now_ms < self._swept_at_ms + self._sweep_ms:
            self._sweep(now_seconds)
        self._due_ms = min(self._first_expiry_ms, self._swept_at_ms + self._sweep_ms)

    def _expire(self, now_ms: int) -> None:
        """Gives back the reservations that were neither settled nor released in time, and finds the next to expire."""
        for reservation in [lease for lease in self._leases if lease.expires_at_ms <= now_ms]:
            self.end(reservation)
            reservation.give_back()
            self._expired += 1
        self._first_expiry_ms = min((lease.expires_at_ms for lease in self._leases), default=math.inf)

    def _sweep(self, now_seconds: float) -> None:
        """Drops idle keys and addresses, and periods that are long over."""
        now_ms = self._swept_at_ms = int(now_seconds * 1000)
        keys = self._keys
        for name in [name for name, use in keys.items() if not use.requests and use.window.is_idle(now_ms)]:
            del keys[name]
        of_keys = {use.of_organisation for use in keys.values()}
        # One that a key counts in is kept, or the next key would count in another one.
        self._organisations = {name: known for name, known in self._organisations.items() if known in of_keys}
        windows = self._address_windows
        for name in [name for name, window in windows.items() if window.is_idle(now_ms)]:
            del windows[name]
        self.periods.forget_before(now_seconds)

    def _new_key(self, key: ApiKey) -> KeyUse:
        """Makes what a key has taken. At the bound it drops the one first made of those with nothing under way."""
        if len(self._keys) >= _MAX_WINDOWS:
            idle = next((name for name, use in self._keys.items() if not use.requests), None)
            if idle is not None:
                del self._keys[idle]
        of_organisation = self._organisations.setdefault(key.organisation, UnderWay())
        use = self._keys[key.id] = KeyUse(of_organisation)
        return use

    def _new_address(self, name: str) -> SlidingWindow:
        """Makes a window. At the bound it drops the first one: a flood of addresses can come between two sweeps."""
        windows = self._address_windows
        if len(windows) >= _MAX_WINDOWS:
            del windows[next(iter(windows))]
        window = windows[name] = SlidingWindow(ADDRESS_WINDOW)
        return window

    def _has_room(self, key: ApiKey, counted: Counted, tokens: int, picousd: int) -> bool:
        limits = key.limits
        at_once = limits.concurrent_requests
        of_key, by_address, day, month = counted
        if at_once is not None and (
            of_key.requests >= CONCURRENT_REQUESTS[key.tier] or of_key.of_organisation.requests >= at_once
        ):
            return False
        return (
            of_key.window.total < REQUESTS_PER_MINUTE[key.tier]
            and (by_address is None or by_address.total < self._address_limit)
            and (limits.requests_per_day is None or day.requests < limits.requests_per_day)
            and (limits.tokens_per_day is None or day.tokens + tokens <= limits.tokens_per_day)
            and (limits.tokens_per_month is None or month.tokens + tokens <= limits.tokens_per_month)
            and (limits.picousd_per_month is None or month.picousd + picousd <= limits.picousd_per_month)
        )

    def _rejection(self, key: ApiKey, counted: Counted, tokens: int, picousd: int, now_ms: int) -> RateLimited:
        allowed = allowed_by(key, self._address_limit)
        requested = requested_amounts(tokens, picousd)
        return rejection(allowed, self._waits(allowed, counted, requested, now_ms), requested)

    @staticmethod
    def _waits(
        allowed: Mapping[Limit, int | None], counted: Counted, requested: Mapping[Limit, int], now_ms: int
    ) -> dict[Limit, float]:
        """Returns the seconds to wait, of every limit that has no room. allowed: what each limit allows."""
        of_key, by_address, day, month = counted
        waits: dict[Limit, float] = {}
        for limit, window in (
            (Limit.REQUESTS_PER_MINUTE, of_key.window),
            (Limit.ADDRESS_REQUESTS_PER_SECOND, by_address),
        ):
            most = allowed[limit]
            if window is not None and most is not None and window.total >= most:
                waits[limit] = window.wait_ms(now_ms) / 1000
        for limit, taken, settled in (
            (Limit.REQUESTS_PER_DAY, day.requests, day.settled_requests),
            (Limit.TOKENS_PER_DAY, day.tokens, day.settled_tokens),
            (Limit.TOKENS_PER_MONTH, month.tokens, month.settled_tokens),
            (Limit.USD_PER_MONTH, month.picousd, month.settled_picousd),
            (Limit.CONCURRENT_REQUESTS, of_key.requests, 0),
            (Limit.ORGANISATION_CONCURRENT_REQUESTS, of_key.of_organisation.requests, 0),
        ):
            # If it would fit beside what is settled, only reservations are in the way, and a short wait may help.
            most = allowed[limit]
            if most is not None and taken + requested[limit] > most:
                may_come_back = settled + requested[limit] <= most
                waits[limit] = period_wait_seconds(limit, now_ms / 1000, may_come_back)
        return waits
