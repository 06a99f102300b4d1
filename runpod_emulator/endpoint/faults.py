"""Faults that can be injected: slow and lost posts, jobs delivered twice, killed workers, lost heartbeats."""

from __future__ import annotations

import dataclasses
import math
import random
import re
from dataclasses import dataclass
from typing import Any

from runpod_emulator.errors import BadRequest

MANAGEMENT_FAULTS = ("error", "garbage", "hang")
#: The statuses with which the REST API can refuse every request.
REST_STATUSES = ("401", "403", "404", "409", "410", "422", "429", "500", "501")
REST_FAULTS = (*REST_STATUSES, "html", "cut", "slow", "extra_field", "endless_pages")
_REST_ON = re.compile(r"([A-Z]+ )?/v2/[a-z]\S*")


@dataclass(frozen=True, kw_only=True)
class Faults:
    """The faults that are injected. Shares are from 0 to 1. Raises BadRequest for a value out of range."""

    #: Half of it passes before a post is recorded, half before it is answered.
    post_latency_seconds: float = 0
    #: The share of stream and done posts whose connection closes and of which nothing is recorded.
    drop_post_share: float = 0
    #: The share of deliveries whose job the next job-take gets once more.
    duplicate_delivery_share: float = 0
    #: When one worker process is killed with SIGKILL, once.
    worker_crash_after_seconds: float | None = None
    #: The worker that crashes, or whose heartbeats are lost. None: any one crashes, all heartbeats are lost.
    worker_id: str | None = None
    #: Pings are answered but not recorded.
    lost_heartbeat: bool = False
    #: /health reports the state of so long ago, or of when the fault was set if that is later.
    health_late_seconds: float = 0
    #: /health answers 503.
    health_silent: bool = False
    #: /v1/endpoints fails: "error" (500), "garbage" (200 without JSON), "hang" (no answer).
    management: str | None = None
    #: The REST API under /v2/serverless, /v2/templates and so on fails. With a status or `html` nothing is carried out;
    #: with the others the request is carried out, and its answer is spoiled.
    rest: str | None = None
    #: The requests with the fault `rest`: method, beginning of the path, or both, as in `POST /v2/serverless`.
    #: None: all.
    rest_on: str | None = None
    #: Makes the shares repeatable.
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("drop_post_share", "duplicate_delivery_share"):
            _require_number(name, getattr(self, name), 1)
        _require_number("post_latency_seconds", self.post_latency_seconds)
        _require_number("health_late_seconds", self.health_late_seconds)
        if self.worker_crash_after_seconds is not None:
            _require_number("worker_crash_after_seconds", self.worker_crash_after_seconds)
        for name in ("lost_heartbeat", "health_silent"):
            if not isinstance(getattr(self, name), bool):
                raise BadRequest(f"{name}: expected true or false")
        if self.management not in (None, *MANAGEMENT_FAULTS):
            raise BadRequest(f"management: expected null or one of {', '.join(MANAGEMENT_FAULTS)}")
        self._require_rest()
        if not isinstance(self.worker_id, str | None) or not isinstance(self.seed, int | None):
            raise BadRequest("worker_id: expected text; seed: expected a whole number")

    def _require_rest(self) -> None:
        if self.rest not in (None, *REST_FAULTS):
            raise BadRequest(f"rest: expected null or one of {', '.join(REST_FAULTS)}")
        if self.rest_on is not None and not (isinstance(self.rest_on, str) and _REST_ON.fullmatch(self.rest_on)):
            raise BadRequest("rest_on: expected null or a path of the REST API, as in POST /v2/serverless")

    @classmethod
    def parse(cls, document: object) -> Faults:
        """Returns the faults of a JSON object with the fields above; a missing field injects nothing."""
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(document, dict) or not document.keys() <= set(names):
            raise BadRequest(f"expected an object with some of {', '.join(names)}")
        return cls(**document)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as a JSON object."""
        return dataclasses.asdict(self)


def _require_number(name: str, value: object, highest: float = math.inf) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= highest:
        raise BadRequest(f"{name}: expected a number from 0" + ("" if highest == math.inf else f" to {highest:g}"))


class FaultInjector:
    """Decides for each post, delivery and heartbeat whether a fault happens."""

    def __init__(self) -> None:
        self.faults = Faults()
        self._random = random.Random()  # noqa: S311  faults need to be repeatable, not secret
        self._crash_at: float | None = None

    def inject(self, faults: Faults, now: float) -> None:
        """Replaces all faults."""
        self.faults = faults
        self._random.seed(faults.seed)
        delay = faults.worker_crash_after_seconds
        self._crash_at = None if delay is None else now + delay

    def drops_post(self) -> bool:
        """Returns whether this post is lost."""
        return self._happens(self.faults.drop_post_share)

    def delivers_again(self) -> bool:
        """Returns whether this delivery is made twice."""
        return self._happens(self.faults.duplicate_delivery_share)

    def loses_heartbeat(self, worker_id: str) -> bool:
        """Returns whether this worker's ping is lost."""
        return self.faults.lost_heartbeat and self.faults.worker_id in (None, worker_id)

    def crashing(self, workers: list[str], now: float) -> str | None:
        """Returns the worker to kill now, once per injected crash, else None.

        While there is no such worker the crash stays due.
        """
        if self._crash_at is None or now < self._crash_at:
            return None
        if self.faults.worker_id is not None:
            workers = [worker for worker in workers if worker == self.faults.worker_id]
        if not workers:
            return None
        self._crash_at = None
        return self._random.choice(workers)

    def _happens(self, share: float) -> bool:
        return share > 0 and self._random.random() < share
