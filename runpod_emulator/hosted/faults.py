"""The faults of a hosted provider, and the decision for each request which of them happens."""

from __future__ import annotations

import dataclasses
import math
import random
from dataclasses import dataclass
from typing import Any, Literal, get_args

from runpod_emulator.errors import BadRequest

#: How a stream is cut: the connection is closed in the middle, reset, ended as if it were complete (without [DONE]),
#: left open without data, or ended after an error event.
Cut = Literal["close", "reset", "clean", "stall", "error"]
DownAs = Literal["503", "reset"]
_SHARES = (
    "rate_limit_share",
    "error_500_share",
    "error_503_share",
    "reset_share",
    "hang_share",
    "garbage_share",
    "slow_share",
    "cut_share",
)


@dataclass(frozen=True, kw_only=True)
class HostedFaults:
    """The faults of one provider. Raises BadRequest.

    A share is a part of all requests, from 0 to 1; at most one fault happens to a request. Two periods repeat from
    when the faults are set: a storm, in which every request gets 429, and an outage.
    """

    rate_limit_share: float = 0
    #: The Retry-After of every 429.
    retry_after_seconds: float = 1
    #: A storm of `storm_seconds` begins every `storm_every_seconds`; with 0 there it never ends.
    storm_every_seconds: float = 0
    storm_seconds: float = 0
    error_500_share: float = 0
    error_503_share: float = 0
    #: The delay of a 429, 500 or 503.
    refuse_after_seconds: float = 0
    #: An outage of `down_seconds` begins every `down_every_seconds`; with 0 there it never ends.
    down_every_seconds: float = 0
    down_seconds: float = 0
    #: During an outage: 503, or a reset connection.
    down_as: DownAs = "503"
    #: Requests whose connection is reset before the first byte of the answer.
    reset_share: float = 0
    #: Requests that get no answer at all.
    hang_share: float = 0
    #: Requests that get 200 and a body that is not an answer.
    garbage_share: float = 0
    #: Requests whose body is sent at `slow_bytes_per_second`.
    slow_share: float = 0
    slow_bytes_per_second: float = 200
    #: Requests whose body is cut off: after so many events or bytes, or anywhere if both are None.
    cut_share: float = 0
    cut_after_events: int | None = None
    cut_after_bytes: int | None = None
    cut: Cut = "close"
    #: Added to the time to first token of every request.
    extra_ttft_seconds: float = 0
    seed: int = 0

    def __post_init__(self) -> None:
        names = [setting.name for setting in dataclasses.fields(self) if setting.name not in ("cut", "down_as")]
        for name in names:
            value = getattr(self, name)
            optional = name.startswith("cut_after")
            if not (value is None and optional):
                _require_number(name, value, 1 if name in _SHARES else math.inf)
        # Decimal fractions that add up to 1 can exceed it by a rounding error.
        if sum(getattr(self, name) for name in _SHARES) > 1 + 1e-9:
            raise BadRequest(f"the shares add up to more than 1: {', '.join(_SHARES)}")
        if self.cut not in get_args(Cut):
            raise BadRequest(f"cut: expected one of {', '.join(get_args(Cut))}")
        if self.down_as not in get_args(DownAs):
            raise BadRequest(f"down_as: expected one of {', '.join(get_args(DownAs))}")
        if not isinstance(self.seed, int):
            raise BadRequest("seed: expected a whole number")

    @classmethod
    def parse(cls, document: object) -> HostedFaults:
        """Returns the faults of a JSON object with the fields above; a missing field injects nothing."""
        names = [setting.name for setting in dataclasses.fields(cls)]
        if not isinstance(document, dict) or not document.keys() <= set(names):
            raise BadRequest(f"expected an object with some of {', '.join(names)}")
        return cls(**document)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as a JSON object."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True)
class InjectedFault:
    """The fault that happens to one request."""

    #: The name of a share without `_share`, `storm`, `down`, or None for an answer without a fault.
    kind: str | None
    #: A number in [0, 1) for choices within the fault, such as where to cut.
    roll: float
    #: The faults that were set when it was drawn.
    settings: HostedFaults


class HostedInjector:
    """Draws the fault of each request.

    The n-th request since the faults were set gets the same fault in every run with the same seed.
    """

    def __init__(self, faults: HostedFaults, now: float) -> None:
        self.inject(faults, now)

    def inject(self, faults: HostedFaults, now: float) -> None:
        """Replaces all faults; the periods and the count of requests begin anew."""
        self.faults = faults
        self._since = now
        self._requests = 0

    def next(self, now: float) -> InjectedFault:
        """Returns the fault of the request that has just arrived."""
        faults = self.faults
        self._requests += 1
        # A generator of its own per request: faults that draw nothing (an outage) do not shift those after them.
        generator = random.Random(f"{faults.seed}:{self._requests}")  # noqa: S311  repeatable, not secret
        share = generator.random()
        roll = generator.random()
        if self.is_down(now):
            return InjectedFault("down", roll, faults)
        if self._within(faults.storm_every_seconds, faults.storm_seconds, now):
            return InjectedFault("storm", roll, faults)
        for name in _SHARES:
            share -= getattr(faults, name)
            if share < 0:
                return InjectedFault(name.removesuffix("_share"), roll, faults)
        return InjectedFault(None, roll, faults)

    def is_down(self, now: float) -> bool:
        """Returns whether `now` is within an outage."""
        return self._within(self.faults.down_every_seconds, self.faults.down_seconds, now)

    def _within(self, every: float, length: float, now: float) -> bool:
        """Returns whether `now` is in the first `length` seconds of a period, counted from when the faults were set."""
        if length <= 0:
            return False
        return every <= 0 or (now - self._since) % every < length


def _require_number(name: str, value: object, highest: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= highest:
        raise BadRequest(f"{name}: expected a number from 0" + ("" if highest == math.inf else f" to {highest:g}"))
