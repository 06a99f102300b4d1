"""The client's only retry layer: tenacity, for transient errors, within a number of attempts and a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import httpx2
import openai
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, stop_before_delay
from tenacity.wait import wait_exponential, wait_random

from vllm_service.client.errors import Unreachable
from vllm_service.client.settings import RetryPolicy
from vllm_service.domain.refusals import Meaning, meaning_of
from vllm_service.errors import GatewayTimeout, ServiceError

T = TypeVar("T")
#: What ends a request before it has been written.
NOT_CONNECTED = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)


async def retrying(
    attempt: Callable[[int], Awaitable[T]],
    policy: RetryPolicy,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    *,
    is_repeatable: bool = False,
) -> T:
    """Returns the result of the first attempt that succeeds; `attempt` gets its number, from 1. Raises the last error.

    An error that is not transient ends the retries at once, and so does a Retry-After beyond the remaining time, and
    an attempt that has timed out: it may be running still. is_repeatable: of calls that generate nothing.
    """
    if policy.attempts == 1:
        return await attempt(1)
    attempts = AsyncRetrying(
        sleep=sleep,
        stop=stop_after_attempt(policy.attempts) | stop_before_delay(policy.total_seconds),
        wait=_Wait(policy),
        retry=retry_if_exception(is_transient if is_repeatable else _may_be_sent_again),
        reraise=True,
    )
    try:
        async with asyncio.timeout(policy.total_seconds) as limit:
            async for one in attempts:
                with one:
                    return await attempt(one.retry_state.attempt_number)
    except TimeoutError:
        if not limit.expired():
            raise
        raise GatewayTimeout(f"no answer within {policy.total_seconds:g} s, all attempts together") from None
    raise AssertionError("tenacity ended without a result and without an error")


def is_transient(error: BaseException) -> bool:
    """Returns whether the same request may succeed a little later."""
    return isinstance(error, ServiceError) and error.is_transient


def may_be_running(error: BaseException) -> bool:
    """Returns whether the server may have taken the request and be generating still, by the error's cause.

    So it is when the request was written and neither an answer nor an error came: a timeout, a connection that was
    lost, or the timeout of a proxy on the way.
    """
    cause = error.__cause__
    if isinstance(cause, openai.APIStatusError):
        return meaning_of(cause.status_code) is Meaning.UNFINISHED
    if isinstance(cause, openai.APIConnectionError):
        return not isinstance(cause.__cause__, NOT_CONNECTED)
    return isinstance(cause, httpx2.HTTPError)


def _may_be_sent_again(error: BaseException) -> bool:
    """Returns whether a policy's further attempt is made.

    It is after a lost connection, too: the server has dropped the request, and the policy was given for that.
    """
    is_lost = isinstance(error, Unreachable)
    return is_transient(error) and (is_lost or not may_be_running(error))


class _Wait:
    """The waits: exponential with jitter within the policy's bounds, and never less than the provider's Retry-After."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._longest = policy.wait_max_seconds
        self._own = wait_exponential(multiplier=policy.wait_min_seconds) + wait_random(0, policy.jitter_seconds)

    def __call__(self, state: RetryCallState) -> float:
        asked = _retry_after_seconds(state)
        own = min(self._own(state), self._longest)
        return own if asked is None else max(own, asked)


def _retry_after_seconds(state: RetryCallState) -> float | None:
    error = state.outcome.exception() if state.outcome is not None else None
    return error.retry_after_seconds if isinstance(error, ServiceError) else None
