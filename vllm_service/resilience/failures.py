"""The ways in which a provider can fail a request, whose fault each is, and whether another offer may be tried."""

from __future__ import annotations

from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import NamedTuple

from vllm_service.domain.plan import Step
from vllm_service.domain.refusals import Meaning, meaning_of
from vllm_service.domain.usage import Usage
from vllm_service.errors import ServiceError
from vllm_service.http.upstream import Patience

#: The status, in nginx's numbers, of a request whose caller has left.
LEFT_BY_CALLER = 499
#: The status of an attempt without an answer.
NO_ANSWER = 0
LONGEST_RETRY_AFTER_SECONDS = 3600.0


class NotAnswered(Exception):
    """Raised when one attempt has failed."""

    def __init__(self, failure: Failure, error: ServiceError, text: str = "") -> None:
        super().__init__()
        self.failure = failure
        #: The error for the caller if nothing else is tried, or nothing else does better.
        self.error = error
        #: The message of the provider's error, for decisions in here; empty if it has none.
        self.text = text


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
    #: This process uses every connection that it may have to the provider: not the provider's doing, nothing was sent.
    BUSY = "busy"
    #: No answer in the time that the provider has by its own limits.
    TIMEOUT = "timeout"
    #: The request's own time was over sooner: what its caller has set says nothing about the provider.
    DEADLINE = "deadline"
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
    #: What the status and the body mean; None: what the status alone means.
    refusal: Meaning | None = None
    #: Whether the provider may have taken the request and be generating still: it was sent, and neither an answer nor
    #: an error came.
    may_be_running: bool = False

    @property
    def may_be_billed(self) -> bool:
        """True if the provider may have worked on the request, so that the attempt is counted by an estimate."""
        return self.may_be_running or self.kind is Kind.CUT

    @property
    def meaning(self) -> Meaning:
        """The meaning of the failure for other attempts. A status 200 with garbage counts as no answer."""
        if self.kind is not Kind.STATUS:
            return Meaning.PROVIDER
        return meaning_of(self.status) if self.refusal is None else self.refusal

    @property
    def breaker_status(self) -> int:
        """The status for breaker and router: HTTP's of an error, 0 for no sound answer, 499 for no fault of theirs.

        It is another status than the provider's where that one alone would speak against somebody else.
        """
        if self.kind in _BLAMELESS:
            return LEFT_BY_CALLER
        if self.kind is not Kind.STATUS:
            return NO_ANSWER
        against, instead = _BREAKER[self.meaning]
        return self.status if blame(self.status) is against else instead

    def judged_by(self, patience: Patience, seconds: float) -> Failure:
        """Returns the failure of an attempt that lasted so many seconds before its answer began.

        Only the provider's own limits speak against it, and the time that every request may take. What a shorter time
        of this request has cut does not.
        """
        if self.kind is Kind.DEADLINE:
            return replace(self, kind=Kind.TIMEOUT) if patience.is_whole else self
        if self.kind is Kind.CONNECT:
            is_cut, limit = not patience.connect_is_own, patience.connect_seconds
        else:
            is_cut = self.kind is Kind.TIMEOUT and not (patience.first_byte_is_own or patience.is_whole)
            limit = patience.first_byte_seconds
        return replace(self, kind=Kind.DEADLINE) if is_cut and seconds > limit - _TIMER_SECONDS else self

    @property
    def is_final(self) -> bool:
        """True if no other offer may be tried: content has been passed on, or the caller has left or made a mistake."""
        return self.content_started or self.kind is Kind.CANCELLED or self.meaning is Meaning.CALLER

    @property
    def is_lasting(self) -> bool:
        """True if the same offer would fail again, however long the request waits."""
        return self.meaning in _LASTING

    @property
    def weight(self) -> int:
        """The weight of what the failure says to the caller when all attempts have failed; of equals the last counts.

        What may pass weighs most, since the same request may succeed later. Then comes what the caller can change.
        """
        if not self.is_lasting:
            return 2
        return 1 if self.meaning in (Meaning.CONTEXT, Meaning.OVERSIZED) else 0


#: Events that are not the provider's doing.
_BLAMELESS = frozenset({Kind.CANCELLED, Kind.DEADLINE, Kind.BUSY})
#: Timers are exact to this; a limit that was reached so nearly was the one that ended the attempt.
_TIMER_SECONDS = 0.005


class CutAttempt(NamedTuple):
    """The cost of an attempt whose answer is not used; an estimate, unless its whole answer was there."""

    step: Step
    usage: Usage
    cost_picousd: int | None
    #: Whether another attempt, sent beside it, began first; else it was cut: by a deadline, a fault, its caller.
    is_beaten: bool = False


#: Failures that do not pass while the request waits.
_LASTING = frozenset({Meaning.ACCOUNT, Meaning.OFFER, Meaning.CONTEXT, Meaning.OVERSIZED})
#: The party that the breaker is to see in a status of each meaning, and a status that speaks against that party.
_BREAKER = {
    Meaning.CALLER: (Blame.CALLER, 400),
    Meaning.CONTEXT: (Blame.CALLER, 400),
    Meaning.OFFER: (Blame.CALLER, 404),
    Meaning.OVERSIZED: (Blame.CALLER, 413),
    Meaning.ACCOUNT: (Blame.PROVIDER, 402),
    Meaning.THROTTLED: (Blame.THROTTLED, 429),
    Meaning.PROVIDER: (Blame.PROVIDER, 500),
    Meaning.UNFINISHED: (Blame.PROVIDER, 504),
}


def blame(status: int) -> Blame:
    """Returns the party at fault: the provider for 401, 402, 408, 5xx, no answer (0), and statuses below 400."""
    if status == LEFT_BY_CALLER:
        return Blame.NONE
    if status == 429:
        return Blame.THROTTLED
    if 400 <= status < 500 and status not in (401, 402, 408):
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
