"""One row of the driver's suite: what providers do, and what a caller gets of it whichever door is used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.vllm_service.resilience.doors import Replies, Setting, Verdict
from vllm_service.domain.breakers import BreakerState
from vllm_service.testing import (
    ReceivedRequest,
    Reply,
    Script,
    refused,
    says,
)

SOUND = says("so", "und")
WHOLE, STREAM = (False,), (True,)
BOTH = (False, True)
CLOSED, RESTING, OPEN, _ = BreakerState


@dataclass(frozen=True, kw_only=True)
class Case:
    """scripts: of the providers, made anew for each door. requests: that came to each of them in the end."""

    name: str
    scripts: Callable[[], Replies]
    verdict: Verdict
    requests: tuple[int, ...]
    streams: tuple[bool, ...] = BOTH
    setting: Setting = field(default_factory=Setting)
    breakers: tuple[BreakerState, ...] | None = None
    #: So many requests come before the one that is judged.
    before: int = 0
    #: The caller leaves when the first provider has fallen silent, or has been asked.
    leaves: str | None = None


def answered(provider: int, attempts: int, text: str = "sound") -> Verdict:
    return Verdict("answered", 200, None, f"provider-{provider}", text, attempts)


def fails(status: int, code: str, provider: int | None = 1) -> Verdict:
    return Verdict("refused", status, code, None if provider is None else f"provider-{provider}")


def broken(text: str, code: str = "UPSTREAM_502") -> Verdict:
    return Verdict("broken", 200, code, "provider-1", text)


LEFT = Verdict("left", 499)
GATEWAY_TIMEOUT, UPSTREAM, UNAVAILABLE = (504, "GATEWAY_TIMEOUT_504"), (502, "UPSTREAM_502"), (503, "MODEL_503")
# Status, Retry-After: what the caller gets where no other provider is, and after how many attempts.


def recovers(failures: int, text: str = "sound") -> Script:
    left = [failures]

    def script(request: ReceivedRequest) -> Reply:
        left[0] -= 1
        return refused(500) if left[0] >= 0 else says(text)(request)

    return script


def by(*scripts: Script | Reply | None) -> Callable[[], Replies]:
    return lambda: scripts
