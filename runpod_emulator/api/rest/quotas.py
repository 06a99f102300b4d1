"""The request quotas of the REST API: a number a minute for each group of operations, and the headers that tell it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from runpod_emulator.errors import TooManyRequests
from runpod_emulator.jobs.store import Clock

WINDOW_SECONDS = 60
#: Requests a minute for each group, as RunPod's published examples have it (2026-08).
REST_QUOTAS: Mapping[str, int] = MappingProxyType(
    dict.fromkeys(("serverless", "templates", "network-volumes", "registries", "catalog", "billing"), 60)
)


class Quotas:
    """Counts requests in windows of a minute. A group without a quota is never refused and gets no headers."""

    def __init__(self, quotas: Mapping[str, int], clock: Clock) -> None:
        self._quotas = quotas
        self._clock = clock
        #: When the group's window began, and how many requests it has had.
        self._windows: dict[str, tuple[float, int]] = {}

    def count(self, group: str) -> dict[str, str]:
        """Counts one request, and returns the headers of its response. Raises TooManyRequests, with them."""
        quota = self._quotas.get(group)
        if quota is None:
            return {}
        now = self._clock()
        began, used = self._windows.get(group, (now, 0))
        if now - began >= WINDOW_SECONDS:
            began, used = now, 0
        self._windows[group] = began, min(used + 1, quota)
        left, seconds = max(0, quota - used - 1), max(1, math.ceil(began + WINDOW_SECONDS - now))
        headers = {
            "RateLimit": f'"minute";r={left};t={seconds}',
            "RateLimit-Policy": f'"minute";q={quota};w={WINDOW_SECONDS}',
        }
        if used >= quota:
            raise OverQuota(seconds, headers)
        return headers


class OverQuota(TooManyRequests):
    """A request over the quota of its group."""

    def __init__(self, seconds: int, headers: dict[str, str]) -> None:
        super().__init__("rate limit exceeded for the minute window", seconds)
        self._quota_headers = headers

    @property
    def headers(self) -> dict[str, str]:
        """Returns Retry-After and the quota's headers."""
        return super().headers | self._quota_headers
