"""Remembers when RunPod's REST API takes requests again, from its RateLimit, RateLimit-Policy and Retry-After headers.

`RateLimit` holds one member for each window: `"minute";r=0;t=12`, where r requests are left and the window begins anew
in t seconds. `RateLimit-Policy` holds the window's length in seconds as w: `"minute";q=60;w=60` (RunPod's published
schema of 2026-08). A value that is no plausible count changes nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping

#: A day, RunPod's longest window. A longer wait is no plausible value.
LONGEST_WINDOW_SECONDS = 86_400
#: No header keeps requests back for longer than this; then one is sent to see. A wrong header must not keep the
#: gateway from lowering the number of paid workers for a day.
LONGEST_HOLD_SECONDS = 300.0
#: The wait after a 429 that says nothing about it.
DEFAULT_WAIT_SECONDS = 5.0
MOST_GROUPS = 1024
_LONGEST_HEADER = 1024
_COUNT = re.compile(r"[0-9]{1,9}")


class RateLimits:
    """The waits of every API key and group of operations. All users of a key share one object."""

    def __init__(self) -> None:
        #: The clock's time until which no request is sent, by group.
        self._until: dict[str, float] = {}
        #: Seconds a request that the windows allow on average, by group.
        self._spacing: dict[str, float] = {}

    def spacing_seconds(self, group: str) -> float | None:
        """Returns how far apart requests without a pause may be, by the strictest window; None until one was named."""
        return self._spacing.get(group)

    def wait_seconds(self, group: str, now_seconds: float) -> float:
        """Returns how long the next request of this group has to wait; 0 if it may be sent."""
        return max(0.0, self._until.get(group, now_seconds) - now_seconds)

    def note(self, group: str, status: int, headers: Mapping[str, str], now_seconds: float) -> None:
        """Takes what an answer says about the limits. headers: names in lower case."""
        if spacings := list(_spacings(headers)):
            self._spacing.pop(group, None)
            self._spacing[group] = min(max(spacings), LONGEST_HOLD_SECONDS)
            if len(self._spacing) > MOST_GROUPS:
                self._spacing.pop(next(iter(self._spacing)))
        waits = [seconds for left, seconds in _windows(headers) if left == 0]
        if status == 429:
            asked = retry_after_seconds(headers)
            waits = [asked] if asked is not None else waits or [DEFAULT_WAIT_SECONDS]
        if not waits:
            return
        until = now_seconds + min(max(waits), LONGEST_HOLD_SECONDS)
        self._until[group] = max(until, self._until.pop(group, until))
        if len(self._until) > MOST_GROUPS:
            self._until.pop(next(iter(self._until)))


def group_of(origin: str, api_key: str, method: str, path: str) -> str:
    """Returns the name of the requests that share a limit: of one key, method and kind of resource. It holds no key."""
    resource = "/".join(path.split("/")[1:3])
    key = hashlib.sha256(f"{origin} {api_key}".encode()).hexdigest()[:32]
    return f"{key} {method} {resource}"


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Returns the seconds of Retry-After; None if it is missing, no whole number, or longer than a day."""
    text = headers.get("retry-after", "").strip()
    seconds = int(text) if _COUNT.fullmatch(text) else LONGEST_WINDOW_SECONDS + 1
    return float(seconds) if seconds <= LONGEST_WINDOW_SECONDS else None


def _windows(headers: Mapping[str, str]) -> Iterator[tuple[int, float]]:
    """Yields the requests left and the seconds to wait of every window whose values are plausible."""
    lengths = {name: counts["w"] for name, counts in _members(headers.get("ratelimit-policy", "")) if "w" in counts}
    for name, counts in _members(headers.get("ratelimit", "")):
        longest = min(lengths.get(name, LONGEST_WINDOW_SECONDS), LONGEST_WINDOW_SECONDS)
        if "r" in counts and counts.get("t", longest + 1) <= longest:
            yield counts["r"], float(counts["t"])


def _spacings(headers: Mapping[str, str]) -> Iterator[float]:
    """Yields the seconds a request of every window whose values are plausible."""
    for _, counts in _members(headers.get("ratelimit-policy", "")):
        if counts.get("q", 0) > 0 and 0 < counts.get("w", 0) <= LONGEST_WINDOW_SECONDS:
            yield counts["w"] / counts["q"]


def _members(header: str) -> Iterator[tuple[str, dict[str, int]]]:
    """Yields the name and the counts of each member of a structured-field list."""
    for member in header.split(",") if len(header) <= _LONGEST_HEADER else ():
        name, *parameters = (part.strip() for part in member.split(";"))
        pairs = (parameter.partition("=") for parameter in parameters)
        yield name, {key: int(value) for key, _, value in pairs if _COUNT.fullmatch(value)}
