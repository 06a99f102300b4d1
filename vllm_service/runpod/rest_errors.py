"""Turns what RunPod's REST API answers, or does not answer, into one sentence that says what to do.

RunPod sends problem documents (RFC 9457): `{"title", "status", "detail", "errors"}`. Their words are shortened, and
the key and the secrets of the request taken out of them. No other body is ever shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vllm_service.errors import ServiceError
from vllm_service.runpod.concealed import conceal
from vllm_service.runpod.endpoint import Reply
from vllm_service.runpod.rate_limits import retry_after_seconds

#: Of a detail, and of all its fields together, as they are shown.
LONGEST_WORDS = 300
#: Of a detail that is read at all.
_LONGEST_READ = 4096
_MOST_FIELDS = 5
_KEYS_PAGE = "RunPod's console under API Keys"
_ADDRESS = "check management_url (deploy: RUNPOD_REST_URL), which for RunPod is not set, and any proxy on the way"
_REMEDIES: Mapping[int, str] = {
    400: "correct the request",
    401: f"set the variable that api_key_env names (deploy: RUNPOD_API_KEY) to a key that is enabled in {_KEYS_PAGE}",
    402: "add credit to the RunPod account",
    404: "check the id, and that the key is of the account that owns it",
    405: f"this address has no such operation: {_ADDRESS}",
    409: "something else changes it at this moment, or its state does not allow this: look at it and repeat",
    410: (
        "RunPod retired this API: remove management_api: v1 and management_url at this provider in providers.yaml, "
        "so that REST v2 is used"
    ),
    413: "make the request smaller",
    422: "correct the fields that are named",
    501: f"this address has no such operation: {_ADDRESS}",
}


class RestError(ServiceError):
    """RunPod's REST API refused a request, or did not answer it. It holds neither the key nor a body."""

    code = "UPSTREAM_502"
    kind = "upstream_error"
    #: RunPod's HTTP status, an int; None where no answer came. (A ServiceError's is always an int.)
    status: Any = None

    def __init__(
        self,
        message: str,
        status: int | None = None,
        *,
        detail: str | None = None,
        fields: tuple[str, ...] = (),
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds)
        self.status = status
        #: RunPod's own words, shortened and without secrets; None where it has none.
        self.detail = detail
        #: What is wrong with which field, from the problem's `errors`.
        self.fields = fields
        #: The same request may succeed later.
        self.is_transient = status is None or status == 429 or (status >= 500 and status != 501)


@dataclass(frozen=True, slots=True)
class RestCall:
    """One request, as far as an error names it."""

    method: str
    #: Without its query.
    path: str
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        return f"{self.method} {conceal(self.path, self.secrets)}"


def refused(call: RestCall, reply: Reply) -> RestError:
    """Returns the error of an answer whose status is no success."""
    status = reply.status
    problem = _problem(reply.body)
    fields = tuple(_fields(problem.get("errors"), call.secrets))
    detail = _words(problem.get("detail"), call.secrets) or _words(problem.get("title"), call.secrets)
    wait = retry_after_seconds(reply.headers)
    said = f" ({'; '.join((detail or '', *fields)).strip('; ')})" if detail or fields else ""
    remedy = _remedy(call, status, wait)
    if not problem and status in (401, 403, 404):
        remedy = f"{remedy}; the answer is not RunPod's form, so {_ADDRESS}"
    return RestError(
        f"{call}: RunPod answered {status}{said}; {remedy}.",
        status,
        detail=detail,
        fields=fields,
        retry_after_seconds=wait,
    )


def not_answered(call: RestCall, fault: Exception) -> RestError:
    """Returns the error of a request without a whole answer."""
    then = "try again in a minute, and check that this machine reaches the address"
    if call.method == "POST":
        then = "it may have been carried out: look whether it was, before it is sent again"
    reason = "no answer in time" if isinstance(fault, TimeoutError) else "no whole answer"
    return RestError(f"{call}: {reason} ({type(fault).__name__}); {then}.")


def held_back(call: RestCall, seconds: float) -> RestError:
    """Returns the error of a request that was not sent, since RunPod takes none until then."""
    return RestError(
        f"{call}: not sent, since the key's rate limit at RunPod is used up; {_later(seconds)}.",
        429,
        retry_after_seconds=seconds,
    )


def not_runpod(call: RestCall, reply: Reply, what: str) -> RestError:
    """Returns the error of a success whose body cannot be one of RunPod's. what: the body, such as `no JSON`."""
    kind = _words(reply.headers.get("content-type"), call.secrets) or "no content type"
    return RestError(
        f"{call}: what answered {reply.status} is not RunPod: {what} ({kind[:80]}); {_ADDRESS}.", reply.status
    )


def not_a_list(call: RestCall, what: str) -> RestError:
    """Returns the error of a list whose pages cannot be read to their end."""
    return RestError(f"{call}: {what}; {_ADDRESS}, and update this package if RunPod's API has changed.", 200)


def _remedy(call: RestCall, status: int, wait: float | None) -> str:
    if status == 403:
        access = "Read Only or Read/Write" if call.method == "GET" else "Read/Write"
        return f"give the key {access} access in {_KEYS_PAGE}, or use a key that has it"
    if status == 429:
        return _later(wait)
    if 300 <= status < 400:
        return (
            "write the address that it leads to into management_url (deploy: RUNPOD_REST_URL); no redirect is "
            "followed, since the key would go along"
        )
    if status >= 500 and status not in _REMEDIES:
        then = "look first whether it was carried out, then " if call.method == "POST" else ""
        return f"the fault is RunPod's: {then}{_later(wait)}; https://uptime.runpod.io shows its state"
    return _REMEDIES.get(status, "correct the request, or update this package if RunPod's API has changed")


def _later(seconds: float | None) -> str:
    return "try again in a minute" if seconds is None else f"try again in {max(1, round(seconds))} s"


def _problem(body: bytes) -> Mapping[str, object]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _fields(errors: object, secrets: Iterable[str]) -> list[str]:
    listed = errors[:_MOST_FIELDS] if isinstance(errors, list) else []
    room = LONGEST_WORDS // _MOST_FIELDS
    return [words[:room] for error in listed if (words := _words(error, secrets))]


def _words(text: object, secrets: Iterable[str]) -> str | None:
    """Returns a text in one line, shortened, without secrets and control characters; None if it is no text."""
    if not isinstance(text, str):
        return None
    line = " ".join(re.sub(r"[^ -~\w]", " ", conceal(text[:_LONGEST_READ], secrets)).split()).rstrip(".;")
    return line if len(line) <= LONGEST_WORDS else f"{line[: LONGEST_WORDS - 3]}..."
