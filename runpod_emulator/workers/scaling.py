"""How many workers an endpoint should have. Pure: numbers in, a number out."""

from __future__ import annotations

import math
from dataclasses import dataclass

from runpod_emulator.jobs.store import Load
from runpod_emulator.settings import EndpointSettings


@dataclass(frozen=True)
class Situation:
    """What there is now; `workers` counts those that start, wait or run, not those that stop."""

    load: Load
    workers: int
    seconds_since_last_start: float


def workers_wanted(settings: EndpointSettings, situation: Situation) -> int:
    """Between `min_workers` and `max_workers`. Never fewer than there are: idle ones leave by their own time-out."""
    grown = STRATEGIES[settings.scaling](settings, situation)
    wanted = max(grown, situation.workers, settings.min_workers)
    return min(wanted, max(settings.max_workers, situation.workers))


def by_queue_delay(settings: EndpointSettings, situation: Situation) -> int:
    """The first worker at once; one more whenever the oldest job, and the last start, are a queue delay ago."""
    if not situation.load.queued:
        return situation.workers
    if not situation.workers:
        return 1
    delay = settings.queue_delay_seconds
    waited = situation.load.oldest_wait_seconds >= delay and situation.seconds_since_last_start >= delay
    return situation.workers + waited


def by_request_count(settings: EndpointSettings, situation: Situation) -> int:
    """ceil((queued + in progress) / requests per worker)."""
    return math.ceil((situation.load.queued + situation.load.in_progress) / settings.requests_per_worker)


STRATEGIES = {"queue_delay": by_queue_delay, "request_count": by_request_count}
