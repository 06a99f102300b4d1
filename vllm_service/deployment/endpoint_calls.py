"""Calls to an endpoint itself: the job that wakes a worker, and one chat request on the OpenAI route."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import quote, urlsplit

from vllm_service.domain.money import exact_number
from vllm_service.domain.urls import is_plain_beyond_this_machine, url_fault
from vllm_service.errors import UpstreamFailed
from vllm_service.runpod.endpoint import FAULTS, Reply, SendHttp

TIMEOUT_SECONDS = 30.0
#: Of the answer that is shown.
LONGEST_ANSWER = 2000
MOST_TOKENS = 64
#: What a job may run: it lists the models, which takes no time.
_EXECUTION_SECONDS = 60
#: The bounds of a job's ttl on RunPod (its documentation of 2026-08): 10 s and 7 days.
_SHORTEST_TTL_SECONDS, _LONGEST_TTL_SECONDS = 10, 7 * 86_400
_ENDED_BADLY = ("FAILED", "CANCELLED", "TIMED_OUT")
_LONGEST_TEXT = 400
#: Statuses below 500 after which the same request may succeed.
_PASSING = (408, 429)


@dataclass(frozen=True, slots=True)
class WakingJob:
    """The job that makes RunPod start a worker, as its status is now."""

    status: str
    #: How long it waited for a worker; None until it has one.
    delay_seconds: Decimal | None = None
    #: The models' names, once it has ended.
    models: tuple[str, ...] = ()
    #: What went wrong in it.
    problem: str | None = None

    @property
    def has_ended(self) -> bool:
        """True when it was answered or failed."""
        return self.status == "COMPLETED" or self.status in _ENDED_BADLY


class EndpointCalls:
    """Sends to one endpoint. Raises UpstreamFailed, whose text holds no key; what a platform says may hold secrets.

    Its `is_transient` says whether the same request may succeed later.
    """

    def __init__(self, urls: Mapping[str, Any], api_key: str, send: SendHttp) -> None:
        """urls: `requestUrls` of RunPod's document of the endpoint. Raises UpstreamFailed for others than RunPod's."""
        self._is_queue = "run" in urls
        self._base = _base_of(urls.get("run" if self._is_queue else "base"), self._is_queue)
        self._headers = {"content-type": "application/json", "authorization": f"Bearer {api_key}"}
        self._send = send

    @property
    def job_url(self) -> str:
        """The endpoint's URL without a path behind it."""
        return self._base

    @property
    def openai_url(self) -> str:
        """The base URL for OpenAI's clients."""
        return f"{self._base}/openai/v1" if self._is_queue else f"{self._base}/v1"

    @property
    def has_queue(self) -> bool:
        """False for a load-balancing endpoint, where a request waits for no worker."""
        return self._is_queue

    async def wake(self, ttl_seconds: float) -> str:
        """Queues the job that lists the models, which starts a worker where there is none; returns its id."""
        ttl = min(max(ttl_seconds, _SHORTEST_TTL_SECONDS), _LONGEST_TTL_SECONDS)
        job = {
            "input": {"openai_route": "/v1/models"},
            "policy": {"executionTimeout": _EXECUTION_SECONDS * 1000, "ttl": math.ceil(ttl) * 1000},
        }
        document = _document(await self._request("POST", "/run", job), "to wake a worker")
        job_id = document.get("id")
        if not isinstance(job_id, str) or not job_id:
            raise UpstreamFailed("the endpoint took the waking job and named no id: check the endpoint's address")
        return job_id

    async def job(self, job_id: str) -> WakingJob:
        """Returns the job's state."""
        reply = await self._request("GET", f"/status/{quote(job_id, safe='')}")
        return parse_job(_document(reply, "for the waking job"))

    async def cancel(self, job_id: str) -> None:
        """Takes the job back, so that it starts no worker later. One that cannot be reached ends by its ttl."""
        try:
            await self._request("POST", f"/cancel/{quote(job_id, safe='')}")
        except UpstreamFailed:
            return

    async def models(self) -> tuple[str, ...] | None:
        """Returns the models' names; None while no worker answers."""
        try:
            reply = await self._request("GET", "/v1/models")
        except UpstreamFailed:
            return None
        return _names(_object(reply.body)) if reply.status == 200 else None

    async def chat(self, model: str, question: str, timeout_seconds: float) -> str:
        """Returns the answer to one question, shortened, at temperature 0."""
        body = {
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": MOST_TOKENS,
        }
        path = self.openai_url.removeprefix(self._base) + "/chat/completions"
        document = _document(await self._request("POST", path, body, timeout_seconds), "to a chat request")
        text = _content(document)
        if text is None:
            raise UpstreamFailed("the endpoint's answer to a chat request has no message: is the model a chat model?")
        return text[:LONGEST_ANSWER]

    async def _request(
        self, method: str, path: str, body: object = None, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> Reply:
        content = b"" if body is None else json.dumps(body).encode()
        try:
            return await self._send(method, self._base + path, self._headers, content, timeout_seconds)
        except FAULTS as fault:
            raise UpstreamFailed(
                f"the endpoint did not answer {method} {path.partition('?')[0]} ({type(fault).__name__}): check that "
                "this machine reaches it, and run this again"
            ) from None


def parse_job(document: Mapping[str, Any]) -> WakingJob:
    """Returns the state of a job from the answer to `/status`; what is missing or nonsense is unknown."""
    status = document.get("status")
    delay = document.get("delayTime")
    output = document.get("output")
    problem = document.get("error")
    is_number = isinstance(delay, int | Decimal) and not isinstance(delay, bool) and 0 <= delay < 10**12
    return WakingJob(
        status if isinstance(status, str) and status.isidentifier() else "UNKNOWN",
        Decimal(delay) / 1000 if is_number and delay is not None else None,
        _names(output if isinstance(output, dict) else output[0] if isinstance(output, list) and output else None),
        _problem(problem) if problem else None,
    )


def _problem(problem: object) -> str:
    text = problem if isinstance(problem, str) else json.dumps(problem, default=str)
    return text[:_LONGEST_TEXT]


def _names(document: object) -> tuple[str, ...]:
    listed = document.get("data") if isinstance(document, Mapping) else None
    entries = listed[:100] if isinstance(listed, list) else []
    names = (entry.get("id") for entry in entries if isinstance(entry, Mapping))
    return tuple(name for name in names if isinstance(name, str) and name)


def _content(document: Mapping[str, Any]) -> str | None:
    choices = document.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, Mapping) else None
    content = message.get("content") if isinstance(message, Mapping) else None
    return content if isinstance(content, str) else None


def _document(reply: Reply, what: str) -> Mapping[str, Any]:
    document = _object(reply.body)
    if reply.status != 200:
        problem = document.get("error") or document.get("detail") or document.get("title")
        words = f" ({_problem(problem)})" if problem else ""
        refused = UpstreamFailed(f"the endpoint answered {reply.status} {what}{words}: read the log with `deploy logs`")
        refused.is_transient = reply.status >= 500 or reply.status in _PASSING
        raise refused
    return document


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(body, parse_float=exact_number, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _base_of(url: object, is_queue: bool) -> str:
    """Returns the URL that all paths of the endpoint begin with. The key goes there, so it has to be a safe one."""
    if not isinstance(url, str) or url_fault(url) is not None or not urlsplit(url).netloc:
        raise UpstreamFailed("RunPod named no URL for requests to the endpoint: update this package if its API changed")
    if is_plain_beyond_this_machine(url):
        raise UpstreamFailed("RunPod named an http URL for requests to the endpoint, where the key could be read")
    return url.rstrip("/").removesuffix("/run") if is_queue else url.rstrip("/")
