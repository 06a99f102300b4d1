"""The ways in which a provider can fail a request, whose fault each is, and whether another offer may be tried."""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum

from vllm_service.errors import ServiceError

#: The status, in nginx's numbers, of a request whose caller has left.
LEFT_BY_CALLER = 499
#: The status of an attempt without an answer.
NO_ANSWER = 0
LONGEST_RETRY_AFTER_SECONDS = 3600.0
#: Statuses about our account at the provider: a key was revoked, credits are used up. The caller can do nothing about
#: them, so they are the provider's fault.
OUR_ACCOUNT = frozenset({401, 402})
#: Statuses that may hold for one offer alone: a model or a route that it lacks, a permission, a conflict. Another offer
#: may be tried. They are no sign of a sick provider, so they never open a breaker.
THIS_OFFER_ONLY = frozenset({403, 404, 405, 409, 421, 425})


class NotAnswered(Exception):
    """Raised when one attempt has failed."""

    def __init__(self, failure: Failure, error: ServiceError) -> None:
        super().__init__()
        self.failure = failure
        #: The error for the caller if nothing else is tried, or nothing else does better.
        self.error = error


class Blame(StrEnum):
    """The party that a status speaks against."""

    PROVIDER = "provider"
    #: The provider, but it is sound: it limits our rate.
    THROTTLED = "throttled"
    CALLER = "caller"
    NONE = "none"


class Kind(StrEnum):
    """The event that ended an attempt."""

    #: No connection to the provider.
    CONNECT = "connect"
    #: No answer in time.
    TIMEOUT = "timeout"
    #: A status of 400 or more.
    STATUS = "status"
    #: An answer without content: not JSON, or an error with status 200.
    GARBAGE = "garbage"
    #: A connection that broke in the middle of the answer.
    CUT = "cut"
    #: The caller has left.
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Failure:
    """The way in which one attempt failed."""

    kind: Kind
    #: The provider's HTTP status; NO_ANSWER if it sent none.
    status: int = NO_ANSWER
    #: Whether the caller has content bytes already: the answer of another offer would be a second one.
    content_started: bool = False
    #: The provider's Retry-After.
    retry_after_seconds: float | None = None

    @property
    def breaker_status(self) -> int:
        """The status for breaker and router: HTTP's of an error, 0 for no sound answer, 499 for a caller who has left.

        A status 200 with garbage counts as no answer.
        """
        if self.kind is Kind.CANCELLED:
            return LEFT_BY_CALLER
        return self.status if self.kind is Kind.STATUS else NO_ANSWER

    @property
    def is_final(self) -> bool:
        """True if no other offer may be tried: content has been passed on, or the caller has left or made a mistake."""
        status = self.breaker_status
        return self.content_started or (status not in THIS_OFFER_ONLY and blame(status) in (Blame.CALLER, Blame.NONE))


def blame(status: int) -> Blame:
    """Returns the party at fault: the provider for 408, 5xx, no answer (0), and statuses below 400."""
    if status == LEFT_BY_CALLER:
        return Blame.NONE
    if status == 429:
        return Blame.THROTTLED
    if 400 <= status < 500 and status != 408 and status not in OUR_ACCOUNT:
        return Blame.CALLER
    return Blame.PROVIDER


def retry_after_seconds(header: str | None, now_utc_seconds: float) -> float | None:
    """Returns the seconds of a Retry-After header (RFC 9110, 10.2.3: seconds or a date); None if it is neither.

    At most LONGEST_RETRY_AFTER_SECONDS: a provider's mistake must not take an offer away for days.
    """
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.replace(".", "", 1).isdigit():  # fractions are beyond the RFC, but clear
        return min(float(text), LONGEST_RETRY_AFTER_SECONDS)
    try:
        wait = parsedate_to_datetime(text).timestamp() - now_utc_seconds
        return min(max(0.0, wait), LONGEST_RETRY_AFTER_SECONDS)
    except (ValueError, OverflowError):
        return None
