"""How an attempt ended, told to those who learn from it: the router and the circuit breaker of its place."""

from __future__ import annotations

import time

from vllm_service.domain.usage import Usage
from vllm_service.gateway.call import Call, Sent


def succeeded(call: Call, sent: Sent, usage: Usage | None, now: float) -> None:
    """The answer is complete; usage None when the provider did not count it."""
    if call.trace is not None:
        call.trace.attempted(sent.step, now - sent.at, "completed", 200)
    call.failing_over.shared.succeeded(sent.step, sent.admission)
    call.configured.router.finished(sent.step, call.facts, usage, now)


def failed(call: Call, sent: Sent, status: int, retry_after_seconds: float | None) -> None:
    """This place failed; status 0: there was no answer, or none that is one."""
    if call.trace is not None:
        call.trace.attempted(sent.step, time.monotonic() - sent.at, "failed", status or None)
    call.failing_over.shared.failed(sent.step, sent.admission, status, retry_after_seconds)
    call.configured.router.failed(sent.step, call.facts, status, retry_after_seconds, time.monotonic())


def left(call: Call, sent: Sent) -> None:
    """The caller went away, or another place was quicker: nobody's fault."""
    if call.trace is not None:
        call.trace.attempted(sent.step, time.monotonic() - sent.at, "left", None)
    call.failing_over.shared.cancelled(sent.step, sent.admission)
    call.configured.router.failed(sent.step, call.facts, 499, None, time.monotonic())
