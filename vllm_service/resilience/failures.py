"""How a place can fail a request, whose fault that is, and whether another place may be tried."""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum

from vllm_service.errors import ServiceError

LEFT_BY_CALLER = 499
NO_ANSWER = 0
LONGEST_RETRY_AFTER_SECONDS = 3600.0
# Of our account at the provider, which the caller neither chose nor can mend: a key revoked, credits used up.
OUR_ACCOUNT = frozenset({401, 402})
# May be this place's alone: a model or a route that it does not have, a permission, a conflict. It says nothing of how
# well the place is, so it never trips a breaker; but another place may know better.
ONLY_HERE = frozenset({403, 404, 405, 409, 421, 425})


class NotAnswered(Exception):
    """One attempt has failed. `error` is the caller's if nothing else is tried, or nothing else does better."""

    def __init__(self, failure: Failure, error: ServiceError) -> None:
        super().__init__()
        self.failure = failure
        self.error = error


class Blame(StrEnum):
    """Who a status speaks against."""

    PLACE = "place"
    THROTTLED = "throttled"
    CALLER = "caller"
    NOBODY = "nobody"


class Kind(StrEnum):
    """What happened, as far as the gateway saw it."""

    CONNECT = "connect"
    TIMEOUT = "timeout"
    STATUS = "status"
    GARBAGE = "garbage"
    CUT = "cut"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Failure:
    """One attempt that came to nothing.

    status: HTTP's where the place answered with one. content_started: the caller has content bytes already, so that
    another place's answer would be a second one. retry_after_seconds: what the place asked for.
    """

    kind: Kind
    status: int = NO_ANSWER
    content_started: bool = False
    retry_after_seconds: float | None = None

    @property
    def told_status(self) -> int:
        """What the breaker and the router are told: HTTP's status, 0 for no answer, 499 for a caller who left."""
        if self.kind is Kind.CANCELLED:
            return LEFT_BY_CALLER
        return self.status if self.kind is Kind.STATUS else NO_ANSWER

    @property
    def is_final(self) -> bool:
        """Whether no other place may be tried: content has been passed on, the caller has left, or erred."""
        status = self.told_status
        return self.content_started or (status not in ONLY_HERE and blame(status) in (Blame.CALLER, Blame.NOBODY))


def blame(status: int) -> Blame:
    """Whose fault a status is: 408, 5xx, no answer, and what is no status of an answer are the place's."""
    if status == LEFT_BY_CALLER:
        return Blame.NOBODY
    if status == 429:
        return Blame.THROTTLED
    if 400 <= status < 500 and status != 408 and status not in OUR_ACCOUNT:
        return Blame.CALLER
    return Blame.PLACE


def retry_after_seconds(header: str | None, now_utc_seconds: float) -> float | None:
    """Seconds to wait by a Retry-After header (RFC 9110, 10.2.3: seconds or a date); None where it says nothing.

    At most LONGEST_RETRY_AFTER_SECONDS, whatever a provider writes.
    """
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.replace(".", "", 1).isdigit():
        return min(float(text), LONGEST_RETRY_AFTER_SECONDS)
    try:
        waits = parsedate_to_datetime(text).timestamp() - now_utc_seconds
        return min(max(0.0, waits), LONGEST_RETRY_AFTER_SECONDS)
    except (ValueError, OverflowError):
        return None
