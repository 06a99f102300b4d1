"""Tallies of the last hour, the last day and all time, in bounded memory. Only the current slot is written to."""

from __future__ import annotations

from collections import deque

from vllm_service.observability.tally import Tally

SLOT_SECONDS = 300
_SLOTS_PER_HOUR = 12
_HOURS_PER_DAY = 24


class Windows:
    """The windows of one series. Slots of SLOT_SECONDS are numbered from the clock's zero.

    The last hour is the current slot and the eleven before it (55 to 60 minutes). The last day is the current hour and
    the 23 before it. At most 12 + 24 + 2 tallies are kept, about 7 kB each, and none for a time without requests.
    """

    def __init__(self, slot: int) -> None:
        #: Of the current slot.
        self.current = Tally()
        self._slot = slot
        self._slots: deque[tuple[int, Tally]] = deque(maxlen=_SLOTS_PER_HOUR - 1)
        self._hours: deque[tuple[int, Tally]] = deque(maxlen=_HOURS_PER_DAY)
        #: Of all ended slots.
        self._past = Tally()

    def turn(self, slot: int) -> Tally:
        """Begins a slot; returns the tally of the slot that has ended, which is now part of the history."""
        if slot == self._slot:
            return Tally()
        ended = self.current
        ended_slot = self._slot
        self.current = Tally()
        self._slot = slot
        if not ended.requests:
            return ended
        hour = ended_slot // _SLOTS_PER_HOUR
        if not self._hours or self._hours[-1][0] != hour:
            self._hours.append((hour, Tally()))
        self._hours[-1][1].merge(ended)
        self._slots.append((ended_slot, ended))
        self._past.merge(ended)
        return ended

    def last_hour(self) -> list[Tally]:
        """Returns tallies whose sum is the last hour."""
        oldest = self._slot - _SLOTS_PER_HOUR
        return [self.current, *(tally for slot, tally in self._slots if slot > oldest)]

    def last_day(self) -> list[Tally]:
        """Returns tallies whose sum is the last day."""
        oldest = self._slot // _SLOTS_PER_HOUR - _HOURS_PER_DAY
        return [self.current, *(tally for hour, tally in self._hours if hour > oldest)]

    def all_time(self) -> list[Tally]:
        """Returns tallies whose sum is everything since the start."""
        return [self.current, self._past]
