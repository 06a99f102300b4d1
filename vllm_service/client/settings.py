"""The client's settings: its endpoint, retries and rate limits. No other module of the client reads the environment."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from vllm_service.client.boundary import raises_ours
from vllm_service.domain.urls import is_plain_beyond_this_machine, url_fault
from vllm_service.errors import ConfigurationError

DEFAULT_MODEL = "meta-llama/Llama-3.1-8B"
API_URL = "https://api.runpod.ai"
OPENAI_PATH = "/v2/{endpoint_id}/openai/v1"
OPENAI_SUFFIX = "/openai/v1"
#: Set to true, lets the key of RunPod go over http to another machine.
PLAIN_HTTP_VARIABLE = "RUNPOD_ALLOW_PLAIN_HTTP"
_log = logging.getLogger(__name__)
#: The key that is sent to servers without keys, as in vLLM's documentation.
NO_KEY = "EMPTY"
#: An endpoint's id becomes a part of its URL.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def seconds(value: float, name: str, *, may_be_zero: bool = False) -> float:
    """Returns a number of seconds. Raises ConfigurationError unless it is finite and above 0, or 0 where it may be."""
    try:
        is_good = math.isfinite(value) and (value >= 0 if may_be_zero else value > 0)
    except OverflowError:  # an integer beyond every float
        is_good = False
    if is_good:
        return value
    raise ConfigurationError(
        f"{name}: expected {'0 or more' if may_be_zero else 'more than 0'} seconds, and a finite number", param=name
    )


def header_value(text: str, name: str) -> str:
    """Returns the text. Raises ConfigurationError, without quoting it, if no HTTP header can carry it."""
    if text and text.isascii() and text.isprintable() and text.strip() == text:
        return text
    reason = "it is empty" if not text else "it holds a line break, a space at an end or a character beyond ASCII"
    raise ConfigurationError(f"{name}: no HTTP header can carry it, since {reason}", param=name)


def _at_least_one(value: int, name: str) -> None:
    if value < 1:
        raise ConfigurationError(f"{name}: expected at least 1, got {value}", param=name)


@raises_ours
@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """The retries of transient errors. Raises ConfigurationError."""

    #: All attempts together, the first included.
    attempts: int = 3
    #: The wait before the second attempt; each further one is twice as long, up to `wait_max_seconds`.
    wait_min_seconds: float = 2.0
    wait_max_seconds: float = 10.0
    #: At most so much is added to each wait at random, so that clients do not retry in step.
    jitter_seconds: float = 1.0
    #: From the first attempt to the end of the last.
    total_seconds: float = 600.0

    def __post_init__(self) -> None:
        _at_least_one(self.attempts, "attempts")
        for name in ("wait_min_seconds", "wait_max_seconds", "jitter_seconds"):
            seconds(getattr(self, name), name, may_be_zero=True)
        seconds(self.total_seconds, "total_seconds")
        if not 0 <= self.wait_min_seconds <= self.wait_max_seconds:
            raise ConfigurationError(
                "wait_min_seconds, wait_max_seconds: expected 0 <= min <= max, "
                f"got {self.wait_min_seconds} and {self.wait_max_seconds}"
            )


ONE_ATTEMPT = RetryPolicy(attempts=1)


@raises_ours
@dataclass(frozen=True, slots=True)
class RateLimit:
    """The rate limit of one operation. Raises ConfigurationError for less than 1."""

    #: The most requests in a window, `RATE_WINDOW_SECONDS` unless another length is given.
    per_window: int
    #: The most requests at once.
    concurrent: int

    def __post_init__(self) -> None:
        _at_least_one(self.per_window, "per_window")
        _at_least_one(self.concurrent, "concurrent")


RATE_WINDOW_SECONDS = 10.0
#: RunPod's limits of one endpoint as of 2026-11 (its documentation). They change: pass others to RunPodVLLMService.
QUEUE_LIMITS: Mapping[str, RateLimit] = MappingProxyType(
    {
        "run": RateLimit(1000, 200),
        "status": RateLimit(2000, 400),
        "stream": RateLimit(2000, 400),
        "cancel": RateLimit(100, 20),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """The address of one endpoint."""

    #: Its name in errors.
    endpoint: str
    #: The OpenAI route.
    base_url: str
    #: The native queue; None for servers without one.
    control_url: str | None
    api_key: str = field(repr=False)
    default_model: str = DEFAULT_MODEL

    @classmethod
    def resolve(
        cls,
        endpoint_id: str | None = None,
        api_key: str | None = None,
        base_url: str | None = None,
        default_model: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> ClientSettings:
        """Returns the settings from the arguments, else from RUNPOD_VLLM_ENDPOINT_ID, RUNPOD_API_KEY and so on.

        RUNPOD_API_URL replaces https://api.runpod.ai, for the emulator. With a base URL (a gateway, the emulator) no
        endpoint id is needed, and no key if the server requires none. Raises ConfigurationError.
        """
        _refuse_empty(endpoint_id=endpoint_id, api_key=api_key, base_url=base_url, default_model=default_model)
        environment = os.environ if environment is None else environment
        endpoint_id = endpoint_id or environment.get("RUNPOD_VLLM_ENDPOINT_ID") or None
        api_key = api_key or environment.get("RUNPOD_API_KEY") or (NO_KEY if base_url else None)
        if endpoint_id is not None and not _ID.fullmatch(endpoint_id):
            raise ConfigurationError(
                "endpoint_id: expected the id of an endpoint, of letters, digits and hyphens; a URL is base_url",
                param="endpoint_id",
            )
        if not base_url and endpoint_id is None:
            raise ConfigurationError("endpoint_id: missing; pass it, or set RUNPOD_VLLM_ENDPOINT_ID, or pass base_url")
        if api_key is None:
            raise ConfigurationError("api_key: missing; pass it, or set RUNPOD_API_KEY")
        api_url = (environment.get("RUNPOD_API_URL") or API_URL).rstrip("/")
        url = (base_url or f"{api_url}{OPENAI_PATH.format(endpoint_id=endpoint_id)}").rstrip("/")
        has_queue = url.endswith(OPENAI_SUFFIX)
        if api_key != NO_KEY and environment.get(PLAIN_HTTP_VARIABLE, "").lower() != "true":
            where = "base_url" if base_url else "RUNPOD_API_URL"
            is_runpods_key = api_key == environment.get("RUNPOD_API_KEY")
            _check_plain_http(url, where, has_queue=has_queue, is_runpods_key=is_runpods_key)
        return cls(
            endpoint=endpoint_id or url,
            base_url=url,
            control_url=url.removesuffix(OPENAI_SUFFIX) if has_queue else None,
            api_key=api_key,
            default_model=default_model or environment.get("RUNPOD_DEFAULT_MODEL") or DEFAULT_MODEL,
        )


def _check_plain_http(url: str, where: str, *, has_queue: bool, is_runpods_key: bool) -> None:
    """Raises ConfigurationError where RunPod's key would cross a network in plain text; logs it of a gateway's key.

    where: the argument or variable that holds the address. has_queue: it is RunPod's API, with its key.
    A gateway in the same network of containers often has no certificate, and its key is worth less than RunPod's.
    """
    if url_fault(url) is not None or not is_plain_beyond_this_machine(url):
        return
    if has_queue or is_runpods_key:
        other_key = "" if has_queue else "pass the key of that server as api_key, "
        raise ConfigurationError(
            f"{where}: over http RunPod's key could be read on the way. Use https, {other_key}"
            f"or set {PLAIN_HTTP_VARIABLE}=true where the whole network is trusted.",
            param=where,
        )
    _log.warning("base_url is http: whoever is in the network between can read the key and the prompts; use https")


def _refuse_empty(**arguments: str | None) -> None:
    """Raises ConfigurationError for an empty argument: it was not meant to be the environment's value."""
    for name, value in arguments.items():
        if value == "":
            raise ConfigurationError(f"{name}: empty; leave it out to use the environment's", param=name)
