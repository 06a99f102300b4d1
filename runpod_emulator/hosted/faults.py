"""What a hosted provider can be made to do wrong, and the decision, request by request, of what goes wrong now."""

from __future__ import annotations

import dataclasses
import math
import random
from dataclasses import dataclass
from typing import Any, Literal, get_args

from runpod_emulator.errors import BadRequest

# How a stream is cut: the connection is closed in the middle, reset, ended as if it were complete (without [DONE]),
# left silent until the client leaves, or ended by an error event.
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
    """Shares are of requests. At most one of them happens to a request. Raises BadRequest.

    Two periods repeat from when the faults are set: a storm (every request gets 429) and a time of being down.
    """

    rate_limit_share: float = 0
    retry_after_seconds: float = 1
    storm_every_seconds: float = 0
    storm_seconds: float = 0
    error_500_share: float = 0
    error_503_share: float = 0
    refuse_after_seconds: float = 0  # a 429, 500 or 503 takes so long
    down_every_seconds: float = 0
    down_seconds: float = 0
    down_as: DownAs = "503"
    reset_share: float = 0  # before any byte of the answer
    hang_share: float = 0  # nothing comes, until the client leaves
    garbage_share: float = 0  # 200, and what follows is not an answer
    slow_share: float = 0  # of bodies that trickle
    slow_bytes_per_second: float = 200
    cut_share: float = 0
    cut_after_events: int | None = None  # neither of the two: anywhere
    cut_after_bytes: int | None = None
    cut: Cut = "close"
    extra_ttft_seconds: float = 0  # on every request
    seed: int = 0

    def __post_init__(self) -> None:
        names = [setting.name for setting in dataclasses.fields(self) if setting.name not in ("cut", "down_as")]
        for name in names:
            value, optional = getattr(self, name), name.startswith("cut_after")
            if not (value is None and optional):
                _require_number(name, value, 1 if name in _SHARES else math.inf)
        if sum(getattr(self, name) for name in _SHARES) > 1 + 1e-9:
            raise BadRequest(f"the shares add up to more than 1: {', '.join(_SHARES)}")
        if self.cut not in get_args(Cut) or self.down_as not in get_args(DownAs):
            raise BadRequest(f"cut: one of {', '.join(get_args(Cut))}; down_as: one of {', '.join(get_args(DownAs))}")
        if not isinstance(self.seed, int):
            raise BadRequest("seed: expected a whole number")

    @classmethod
    def parse(cls, document: object) -> HostedFaults:
        """From JSON with the fields above; what is left out does not go wrong."""
        names = [setting.name for setting in dataclasses.fields(cls)]
        if not isinstance(document, dict) or not document.keys() <= set(names):
            raise BadRequest(f"expected an object with some of {', '.join(names)}")
        return cls(**document)

    def to_json(self) -> dict[str, Any]:
        """The fields as they are."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True)
class Fate:
    """What happens to one request. `kind`: a share's name without `_share`, `storm`, `down`, or None for an answer.

    roll: a number of [0, 1) for choices within the fault, such as where to cut.
    """

    kind: str | None
    roll: float
    faults: HostedFaults


class HostedInjector:
    """Draws fates. The n-th request since the faults were set has the same fate in every run with the same seed."""

    def __init__(self, faults: HostedFaults, now: float) -> None:
        self.inject(faults, now)

    def inject(self, faults: HostedFaults, now: float) -> None:
        """From now on these faults, and no others."""
        self.faults = faults
        self._since = now
        self._requests = 0

    def next(self, now: float) -> Fate:
        """The fate of the request that has just arrived."""
        faults = self.faults
        self._requests += 1
        draw = random.Random(f"{faults.seed}:{self._requests}")  # noqa: S311  repeatable, not secret
        share, roll = draw.random(), draw.random()
        if self.is_down(now):
            return Fate("down", roll, faults)
        if self._within(faults.storm_every_seconds, faults.storm_seconds, now):
            return Fate("storm", roll, faults)
        for name in _SHARES:
            share -= getattr(faults, name)
            if share < 0:
                return Fate(name.removesuffix("_share"), roll, faults)
        return Fate(None, roll, faults)

    def is_down(self, now: float) -> bool:
        """Whether now lies in a time of being down."""
        return self._within(self.faults.down_every_seconds, self.faults.down_seconds, now)

    def _within(self, every: float, length: float, now: float) -> bool:
        """The period begins with the fault: who asks for storms sees one at once."""
        if length <= 0:
            return False
        return every <= 0 or (now - self._since) % every < length


def _require_number(name: str, value: object, highest: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= highest:
        raise BadRequest(f"{name}: expected a number from 0" + ("" if highest == math.inf else f" to {highest:g}"))
