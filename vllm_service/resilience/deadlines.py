"""How long a request may take, and what is left of it for each attempt."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from vllm_service.errors import GatewayTimeout, InvalidRequest
from vllm_service.http.upstream import Patience

HEADER = "x-request-timeout-ms"


@dataclass(frozen=True, kw_only=True)
class DeadlineSettings:
    """Seconds. default: for who asks for nothing; longest: nobody gets more.

    reserve: while another place can still be tried, an attempt waits for its first byte until so long before the end,
    at most for half of what is left, so that the other place has time to answer.
    """

    default_seconds: float = 600.0
    longest_seconds: float = 3600.0
    reserve_seconds: float = 10.0


class Deadline(msgspec.Struct, frozen=True, gc=False):
    """Of one request, whatever is tried for it. Seconds of a monotonic clock."""

    started_at: float
    seconds: float
    reserve_seconds: float = 0.0

    def left(self, now: float) -> float:
        """Seconds; never more than it had, should the clock go back; 0 when it is over."""
        left = self.started_at + self.seconds - now
        return self.seconds if left > self.seconds else left if left > 0.0 else 0.0

    def limits(self, connect_seconds: float, first_byte_seconds: float, now: float, *, is_last: bool) -> Patience:
        """What an attempt may take at a provider with these limits of its own. Raises GatewayTimeout when it is over.

        is_last: no other place can be tried after this one.
        """
        left = min(self.started_at + self.seconds - now, self.seconds)  # the clock may have gone back
        if left <= 0:
            raise GatewayTimeout(
                f"No provider answered within the {self.seconds:g} s this request may take.",
                details={"timeout_seconds": self.seconds},
            )
        until_first_byte = left if is_last else max(left / 2, left - self.reserve_seconds)
        first_byte = min(first_byte_seconds, until_first_byte)
        return Patience(min(connect_seconds, first_byte), first_byte, left)


def deadline(header: str | None, settings: DeadlineSettings, now: float) -> Deadline:
    """From `x-request-timeout-ms`, whole milliseconds, or the default. Raises InvalidRequest."""
    if header is None:
        seconds = settings.default_seconds
    elif header.isascii() and header.isdigit() and len(header) <= 12 and int(header) > 0:
        seconds = int(header) / 1000
    else:
        raise InvalidRequest(f"{HEADER}: expected whole milliseconds above 0", param=HEADER)
    return Deadline(now, min(seconds, settings.longest_seconds), settings.reserve_seconds)
