"""Finds the meaning of a provider's error, by its status and the words of its body: one table, read from top to bottom.

Providers give the same status to different things, and different statuses to the same one. Groq answers 413 where a
limit by the minute is used up; OpenAI answers 429 where credits are; contexts that are too short are 400, 403, 413,
422 or 500. So the names in `code` and `type` come first, then the message, then the status.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from enum import StrEnum
from typing import NamedTuple


class Meaning(StrEnum):
    """The meaning of an error for the request's other attempts, and for the provider."""

    #: The request is wrong for every provider: no other offer is tried.
    CALLER = "caller"
    #: The prompt and the requested answer are longer than this offer's context.
    CONTEXT = "context"
    #: True of this offer only, such as a model or a parameter that the provider lacks; no sign of a sick provider.
    OFFER = "offer"
    #: This one request is larger than our limit at this provider, so waiting does not help.
    OVERSIZED = "oversized"
    #: Our account there: a key was revoked, credits are used up. The caller can do nothing about it.
    ACCOUNT = "account"
    #: The provider is sound, and limits our rate or lacks capacity for now.
    THROTTLED = "throttled"
    #: The provider is at fault.
    PROVIDER = "provider"
    #: A server on the way has waited long enough; the provider behind it may be generating still.
    UNFINISHED = "unfinished"


class _Rule(NamedTuple):
    """A line of the table. All of its conditions must hold; an empty one always does."""

    meaning: Meaning
    statuses: Container[int]
    #: One of these is a part of `code` or `type`, both reduced to small letters.
    names: tuple[str, ...] = ()
    #: One of these is a part of the message. A message may quote the caller, who must not be able to shut a provider
    #: for others: such a line has no meaning that a breaker counts.
    phrases: tuple[str, ...] = ()
    #: The message begins with one of these, which no quotation does.
    beginnings: tuple[str, ...] = ()

    @property
    def has_words(self) -> bool:
        """True if more than a status decides."""
        return bool(self.names or self.phrases or self.beginnings)

    def holds(self, status: int, names: str, message: str) -> bool:
        """Returns whether the rule is about this error. names: small letters. message: in lower case."""
        return (
            status in self.statuses
            and (not self.names or any(name in names for name in self.names))
            and (not self.phrases or any(phrase in message for phrase in self.phrases))
            and (not self.beginnings or message.startswith(self.beginnings))
        )


_ANY = range(400, 1000)
_CALLERS = (400, 403, 413, 422)
_RATE = ("ratelimit", "toomanyrequests", "throttl", "resourceexhausted")
_TABLE = (
    # OpenAI and those like it: 429 insufficient_quota, 400 billing_hard_limit_reached. DeepSeek: 402. Anthropic: 400.
    _Rule(Meaning.ACCOUNT, _ANY, names=("insufficientquota", "insufficientbalance", "insufficientcredit", "billing")),
    _Rule(Meaning.ACCOUNT, _ANY, names=("accountdeactivated", "accountsuspended", "invalidapikey", "expiredapikey")),
    _Rule(Meaning.ACCOUNT, (400, 403, 429), beginnings=("your credit balance", "insufficient balance")),
    # One request above the tokens of a minute. Groq: 413 rate_limit_exceeded. OpenAI: 429 with this message.
    _Rule(Meaning.OVERSIZED, (413,), names=_RATE),
    _Rule(Meaning.OVERSIZED, (429,), beginnings=("request too large",)),
    _Rule(Meaning.THROTTLED, _ANY, names=_RATE),
    # OpenAI, Cerebras, Groq: context_length_exceeded. llama.cpp: exceed_context_size_error. Others have words only.
    _Rule(Meaning.CONTEXT, _ANY, names=("contextlength", "contextwindow", "contextsize")),
    _Rule(
        Meaning.CONTEXT,
        _CALLERS,
        phrases=(
            *("context_length", "context length", "context window", "context limit", "context size"),
            *("maximum context", "max_model_len", "maximum model length", "maximum prompt length"),  # vLLM, xAI
            *("is too long", "are too long", "prompt too long", "input too long"),  # Anthropic, Bedrock
            *("reduce the length", "too many tokens"),  # Groq, Cohere
            *("exceeds the maximum number of tokens", "max_new_tokens` must be"),  # Gemini, TGI
            "must be less than the context",  # Together, with 403
        ),
    ),
    # Groq: the model's own tool call or JSON was not valid. Together, Groq: models that are gone.
    _Rule(Meaning.OFFER, (400, 422), names=("toolusefailed", "jsonvalidatefailed")),
    _Rule(Meaning.OFFER, (400, 422), names=("modelnot", "modeldecommissioned", "modeldeprecated", "nosuchmodel")),
    _Rule(Meaning.OFFER, (400, 422), names=("unsupported", "notsupported", "unknownparameter", "extraforbidden")),
    # A name says more than a status that is not HTTP's idea of it: Anthropic's overloaded_error, and 400 for outages.
    _Rule(Meaning.PROVIDER, range(400, 500), names=("overloaded", "serviceunavailable", "internalserver")),
    # By status alone.
    _Rule(Meaning.ACCOUNT, (401, 402, 407)),
    _Rule(Meaning.OFFER, (403, 404, 405, 406, 409, 410, 412, 413, 421, 423, 424, 425, 426, 428, 431, 451, 501, 505)),
    _Rule(Meaning.PROVIDER, (408, 499)),  # 499: nginx at the provider
    _Rule(Meaning.THROTTLED, (420, 429, 498)),  # 498: Groq's capacity for flexible requests
    _Rule(Meaning.UNFINISHED, (504, 524, 598)),  # a proxy's, Cloudflare's, others'
    _Rule(Meaning.OFFER, range(452, 500)),  # statuses that HTTP does not define come from proxies
    _Rule(Meaning.CALLER, range(400, 500)),
)
#: The statuses with which errors of a meaning come, for those that came with none.
_STATUS = {
    Meaning.ACCOUNT: 402,
    Meaning.OVERSIZED: 429,
    Meaning.THROTTLED: 429,
    Meaning.CONTEXT: 400,
    Meaning.OFFER: 400,
    Meaning.PROVIDER: 503,
}
_OTHER_THAN_LETTERS = re.compile(r"[^a-z]")


def meaning_of(status: int, code: object = None, kind: object = None, message: str | None = None) -> Meaning:
    """Returns what an error with this status means. code, kind, message: of its body (`code`, `type`, `message`)."""
    names = _letters((code, kind))
    text = (message or "").lower()
    return next((rule.meaning for rule in _TABLE if rule.holds(status, names, text)), Meaning.PROVIDER)


def status_by_words(names: Iterable[object], message: str) -> int:
    """Returns a status with which an error of these words has the same meaning; 0 if they say nothing.

    names: its code, its type and the like. message: its text.
    """
    letters, text = _letters(names), message.lower()
    lines = ((rule, _STATUS.get(rule.meaning, 0)) for rule in _TABLE if rule.has_words)
    return next((status for rule, status in lines if rule.holds(status, letters, text)), 0)


def _letters(names: Iterable[object]) -> str:
    return " ".join(_OTHER_THAN_LETTERS.sub("", name.lower()) for name in names if isinstance(name, str))
