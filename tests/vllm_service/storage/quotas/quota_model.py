"""What the limits should do, as plainly as it can be said: lists of everything, counted anew at each question."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.vllm_service.storage.use import OrganisationUse
from vllm_service.domain.keys import CONCURRENT_REQUESTS, REQUESTS_PER_MINUTE, ApiKey
from vllm_service.domain.quotas import ADDRESS_WINDOW, KEY_WINDOW, RateWindow, utc_day, utc_month


@dataclass
class Share:
    """One admitted request."""

    key_id: str
    day: int
    month: int
    tokens: int
    picousd: int
    expires_at_ms: int
    state: str = "reserved"


@dataclass
class QuotaModel:
    """One organisation."""

    lease_ms: int
    address_limit: int
    shares: list[Share] = field(default_factory=list)
    slots: dict[str, list[int]] = field(default_factory=dict)
    newest: dict[str, int] = field(default_factory=dict)

    def reserve(self, key: ApiKey, address: str | None, tokens: int, picousd: int, now_ms: int) -> Share | None:
        """None if any limit has no room."""
        self.expire(now_ms)
        windows = [(f"key {key.id}", KEY_WINDOW, REQUESTS_PER_MINUTE[key.tier])]
        if address is not None:
            windows.append((f"address {address}", ADDRESS_WINDOW, self.address_limit))
        slots = [(name, self._bucket(name, shape, now_ms)) for name, shape, _ in windows]
        use, limits = self.used(now_ms), key.limits
        has_room = (
            all(len(self.slots.get(name, [])) < limit for name, _, limit in windows)
            and use.requests_today + 1 <= (limits.requests_per_day or 0)
            and use.tokens_today + tokens <= (limits.tokens_per_day or 0)
            and use.tokens_this_month + tokens <= (limits.tokens_per_month or 0)
            and use.picousd_this_month + picousd <= (limits.picousd_per_month or 0)
            and self._has_room_at_once(key)
        )
        if not has_room:
            return None
        for name, bucket in slots:
            self.slots.setdefault(name, []).append(bucket)
            self.newest[name] = bucket
        day = utc_day(now_ms / 1000)
        share = Share(key.id, day, utc_month(day), tokens, picousd, now_ms + self.lease_ms)
        self.shares.append(share)
        return share

    def _has_room_at_once(self, key: ApiKey) -> bool:
        most = key.limits.concurrent_requests
        if most is None:
            return True
        under_way = [share.key_id for share in self.shares if share.state == "reserved"]
        return under_way.count(key.id) < CONCURRENT_REQUESTS[key.tier] and len(under_way) < most

    def settle(self, share: Share, tokens: int, picousd: int) -> None:
        """Also of a share that has expired."""
        share.state, share.tokens, share.picousd = "settled", tokens, picousd

    def release(self, share: Share) -> None:
        """Nothing, if it has expired. The windows count it all the same."""
        if share.state == "reserved":
            share.state = "gone"

    def expire(self, now_ms: int) -> None:
        """Leases that nobody ended."""
        for share in self.shares:
            if share.state == "reserved" and share.expires_at_ms <= now_ms:
                share.state = "gone"

    def used(self, now_ms: int) -> OrganisationUse:
        """Everything that still counts, today and this month."""
        day = utc_day(now_ms / 1000)
        counted = [share for share in self.shares if share.state != "gone"]
        today = [share for share in counted if share.day == day]
        month = [share for share in counted if share.month == utc_month(day)]
        return OrganisationUse(
            len(today),
            sum(share.tokens for share in today),
            len(month),
            sum(share.tokens for share in month),
            sum(share.picousd for share in month),
        )

    def _bucket(self, name: str, shape: RateWindow, now_ms: int) -> int:
        """A clock that went back a little stands still; one that went back further than the window starts it anew."""
        bucket = now_ms // shape.bucket_ms
        newest = self.newest.get(name, bucket)
        if newest - bucket > shape.buckets:
            self.slots[name] = []
            del self.newest[name]
        else:
            bucket = max(bucket, newest)
        self.slots[name] = [slot for slot in self.slots.get(name, []) if slot >= bucket - shape.buckets]
        return bucket
