"""Counts in one process while nothing answers at Redis's address: its share of what Redis had left to give out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vllm_service.domain.keys import ApiKey
from vllm_service.domain.quotas import ADDRESS_REQUESTS_PER_SECOND, KEY_WINDOW, Limit, utc_day, utc_month
from vllm_service.errors import RateLimited
from vllm_service.storage.quotas.memory import LEASE_SECONDS, Counted, MemoryQuotas, MemoryReservation
from vllm_service.storage.quotas.refusals import allowed_by, rejection, requested_amounts

_OF_PERIODS = (Limit.REQUESTS_PER_DAY, Limit.TOKENS_PER_DAY, Limit.TOKENS_PER_MONTH, Limit.USD_PER_MONTH)
#: The most organisations, and the most keys, whose totals are remembered.
MOST_REMEMBERED = 100_000


@dataclass(frozen=True, slots=True)
class _Totals:
    """The use of some limits by all processes together, as of Redis's last reply."""

    #: Until when this counts, in milliseconds since 1970.
    ends_at_ms: float
    day: int
    month: int
    by_limit: Mapping[Limit, int]


class ShareOfQuotas(MemoryQuotas):
    """Admits at most this process's share of each limit: what was left when Redis last answered, by the processes.

    So all processes together stay within the limits, but for rounding up and for what others took after the totals
    that this process has seen. processes: how many share the limits at least.
    """

    def __init__(
        self,
        *,
        processes: int = 1,
        lease_seconds: float = LEASE_SECONDS,
        address_limit: int = ADDRESS_REQUESTS_PER_SECOND,
    ) -> None:
        super().__init__(lease_seconds=lease_seconds, address_limit=address_limit)
        self._whole_address_limit = address_limit
        #: What the request at hand may take: no await lies between its making and its use.
        self._allowed: Mapping[Limit, int | None] = {}
        #: How many processes share the limits; what Redis counts replaces it.
        self.processes = processes
        #: By key's id, and by organisation.
        self._seen: OrderedDict[tuple[str, str], _Totals] = OrderedDict()
        self._active: dict[str, int] = {}

    def note(self, key: ApiKey, totals: list[str | int], now_seconds: float) -> None:
        """Keeps the totals of a reply of reserve.lua."""
        requests, *used = (int(total) for total in totals)
        day = utc_day(now_seconds)
        minute_ends_at_ms = now_seconds * 1000 + KEY_WINDOW.lifetime_ms
        of_minute = _Totals(minute_ends_at_ms, day, utc_month(day), {Limit.REQUESTS_PER_MINUTE: requests})
        self._keep(("key", key.id), of_minute)
        self.note_periods(key.organisation, day, used)
        self._active[key.organisation] = day

    def note_periods(self, organisation: str, day: int, used: Sequence[int]) -> None:
        """Keeps an organisation's totals: requests and tokens of the day, tokens and pico-dollars of its month."""
        by_limit = dict(zip(_OF_PERIODS, used, strict=True))
        self._keep(("organisation", organisation), _Totals(float("inf"), day, utc_month(day), by_limit))

    def take_active(self) -> dict[str, int]:
        """Returns the organisations whose requests Redis has counted since the last call, with the day of the last."""
        active = self._active
        self._active = {}
        return active

    async def reserve(
        self, key: ApiKey, client_ip: str | None, tokens: int, cost_picousd: int, now_seconds: float
    ) -> MemoryReservation:
        """Implements protocol.Quotas."""
        self._allowed = self._share(key, int(now_seconds * 1000))
        return await super().reserve(key, client_ip, tokens, cost_picousd, now_seconds)

    def _keep(self, name: tuple[str, str], totals: _Totals) -> None:
        self._seen[name] = totals
        self._seen.move_to_end(name)
        if len(self._seen) > MOST_REMEMBERED:
            self._seen.popitem(last=False)

    def _has_room(self, key: ApiKey, counted: Counted, tokens: int, picousd: int) -> bool:
        return not self._waits(self._allowed, counted, requested_amounts(tokens, picousd), 0)

    def _rejection(self, key: ApiKey, counted: Counted, tokens: int, picousd: int, now_ms: int) -> RateLimited:
        requested = requested_amounts(tokens, picousd)
        waits = self._waits(self._allowed, counted, requested, now_ms)
        error = rejection(allowed_by(key, self._whole_address_limit), waits, requested)
        if self.processes == 1:
            return error
        message = (
            f"{error.message} The store that all processes of this gateway share does not answer, so each gives out "
            f"its share of the limit, one of {self.processes}."
        )
        return RateLimited(message, details=error.details, retry_after_seconds=error.retry_after_seconds)

    def _share(self, key: ApiKey, now_ms: int) -> dict[Limit, int | None]:
        """Returns what this process may give out of each limit from now on, besides what it counts itself."""
        day = utc_day(now_ms / 1000)
        month = utc_month(day)
        seen: dict[Limit, int] = {}
        for name in (("key", key.id), ("organisation", key.organisation)):
            totals = self._seen.get(name)
            if totals is not None and now_ms < totals.ends_at_ms:
                seen |= {limit: n for limit, n in totals.by_limit.items() if _is_of(limit, totals, day, month)}
        allowed = allowed_by(key, self._whole_address_limit)
        return {limit: self._part(most, seen.get(limit, 0)) for limit, most in allowed.items()}

    def _part(self, most: int | None, seen: int) -> int | None:
        """Returns one process's part of what is left, rounded up: a limit of one still lets one request through."""
        return None if most is None else -(-max(0, most - seen) // self.processes)


def _is_of(limit: Limit, totals: _Totals, day: int, month: int) -> bool:
    """Returns whether totals of this limit are of the present period."""
    if limit in (Limit.REQUESTS_PER_DAY, Limit.TOKENS_PER_DAY):
        return totals.day == day
    return totals.month == month
