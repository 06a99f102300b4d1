"""One request's share of the limits in memory: where it is counted, how much, and until when."""

from __future__ import annotations

from typing import Protocol

from vllm_service.domain.quotas import ADDRESS_WINDOW, KEY_WINDOW
from vllm_service.storage.quota_periods import Period
from vllm_service.storage.sliding_window import SlidingWindow


class Owner(Protocol):
    """What a reservation reports its end to."""

    def settle(self, reservation: MemoryReservation, tokens: int, picousd: int) -> None:
        """It used this much."""
        ...

    def release(self, reservation: MemoryReservation) -> None:
        """It came to nothing."""
        ...


class MemoryReservation:
    """Implements protocol.Reservation. Made before the check; it counts nowhere until `take`."""

    __slots__ = (
        "_owner",
        "address_bucket",
        "address_window",
        "day",
        "expires_at_ms",
        "key_bucket",
        "key_window",
        "month",
        "picousd",
        "tokens",
    )

    def __init__(
        self,
        owner: Owner,
        key_window: SlidingWindow,
        address_window: SlidingWindow | None,
        *,
        periods: tuple[Period, Period],
        amounts: tuple[int, int],
        now_ms: int,
    ) -> None:
        self._owner = owner
        self.key_window = key_window
        self.key_bucket = key_window.advance(now_ms // KEY_WINDOW.bucket_ms)
        self.address_window = address_window
        self.address_bucket = address_window.advance(now_ms // ADDRESS_WINDOW.bucket_ms) if address_window else 0
        self.day, self.month = periods
        self.tokens, self.picousd = amounts
        self.expires_at_ms = 0

    def take(self, expires_at_ms: int) -> None:
        """From now on it counts."""
        self.key_window.take(self.key_bucket)
        if self.address_window is not None:
            self.address_window.take(self.address_bucket)
        self.day.reserve(self.tokens, self.picousd)
        self.month.reserve(self.tokens, self.picousd)
        self.expires_at_ms = expires_at_ms

    def give_back_amounts(self) -> None:
        """It no longer counts in its day and month."""
        self.day.give_back(self.tokens, self.picousd)
        self.month.give_back(self.tokens, self.picousd)

    def give_back_slots(self) -> None:
        """It no longer counts in its minute and second, if they are not over anyway."""
        self.key_window.give_back(self.key_bucket)
        if self.address_window is not None:
            self.address_window.give_back(self.address_bucket)

    async def settle(self, tokens: int, cost_picousd: int) -> None:
        """See Reservation. One that has expired is booked all the same: it was used."""
        self._owner.settle(self, tokens, cost_picousd)

    async def release(self) -> None:
        """See Reservation."""
        self._owner.release(self)
