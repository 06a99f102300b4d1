"""One request's share of the limits in memory: where it is counted, how much, and until when."""

from __future__ import annotations

from typing import Protocol

from vllm_service.storage.quotas.periods import Period
from vllm_service.storage.quotas.sliding_window import SlidingWindow


class Owner(Protocol):
    """What a reservation reports its end to."""

    def end(self, reservation: MemoryReservation) -> bool:
        """Whether it had not ended before."""
        ...


class MemoryReservation:
    """Implements protocol.Reservation. Made when there is room: it counts from then on."""

    __slots__ = (
        "_address_bucket",
        "_address_window",
        "_day",
        "_key_bucket",
        "_key_window",
        "_month",
        "_owner",
        "_picousd",
        "_tokens",
        "expires_at_ms",
    )

    def __init__(
        self,
        owner: Owner,
        *,
        expires_at_ms: int,
        amounts: tuple[int, int],
        periods: tuple[Period, Period],
        by_key: tuple[SlidingWindow, int],
        by_address: tuple[SlidingWindow | None, int],
    ) -> None:
        """It is taken. amounts: tokens, pico-dollars. by_key, by_address: each a window, and the bucket within it."""
        self._owner = owner
        self.expires_at_ms = expires_at_ms
        self._tokens, self._picousd = tokens, picousd = amounts
        self._day, self._month = day, month = periods
        self._key_window, self._key_bucket = key_window, key_bucket = by_key
        self._address_window, self._address_bucket = address_window, address_bucket = by_address
        key_window.take(key_bucket)
        if address_window is not None:
            address_window.take(address_bucket)
        day.reserve(tokens, picousd)
        month.reserve(tokens, picousd)

    def give_back(self) -> None:
        """It no longer counts in its day and month."""
        self._day.give_back(self._tokens, self._picousd)
        self._month.give_back(self._tokens, self._picousd)

    async def settle(self, tokens: int, cost_picousd: int) -> None:
        """See Reservation. One that has expired is booked all the same, in the periods where it was: it was used."""
        if not self._owner.end(self):
            self._day.reserve(self._tokens, self._picousd)
            self._month.reserve(self._tokens, self._picousd)
        self._day.settle(tokens, cost_picousd, self._tokens, self._picousd)
        self._month.settle(tokens, cost_picousd, self._tokens, self._picousd)

    async def release(self) -> None:
        """See Reservation. Once its lease has expired nothing is left to give; nor in minutes and seconds gone by."""
        if not self._owner.end(self):
            return
        self.give_back()
        self._key_window.give_back(self._key_bucket)
        if self._address_window is not None:
            self._address_window.give_back(self._address_bucket)
