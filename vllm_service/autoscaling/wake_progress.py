"""The progress of one replica's wake of an endpoint: when its job has done its work, when the wake has failed. Pure.

The warm-up job has done its work when as many workers start as are wanted: while it waits on, for a whole cold start,
a platform that scales by queue delay starts one more every few seconds. So it is cancelled then. Should a worker
be gone before it was ready, and a job had been cancelled, the platform may have taken that for the end of all demand:
from then on jobs of this endpoint are left to wait.
"""

from __future__ import annotations

from enum import StrEnum


class WakeEvent(StrEnum):
    """The meaning of the endpoint's workers, as last seen, for the wake."""

    NONE = "none"
    #: The job has done its work and is to be cancelled.
    ENOUGH_START = "enough_start"
    #: A worker is warm, so the next wake need not wait for the lease's end.
    IS_READY = "is_ready"
    #: The worker that was starting is gone before it was ready: the wake has failed.
    IS_GONE = "is_gone"
    #: No worker has started and none is wanted any more: the job is to be cancelled.
    IS_UNWANTED = "is_unwanted"


class WakeProgress:
    """One endpoint's wake by this replica, from the job to the first worker that is ready."""

    def __init__(self) -> None:
        #: The job that waits, as far as is known.
        self.job_id: str | None = None
        #: Wakes in a row whose workers never got ready.
        self.failures = 0
        self._is_under_way = False
        #: Whether a worker was seen starting since the wake began.
        self._has_started = False
        #: Whether this wake's job was to be cancelled.
        self._was_cancelled = False
        #: False for good once a wake failed after its job was cancelled.
        self._may_cancel = True

    def began(self, job_id: str) -> None:
        """Notes that this replica has sent the job."""
        self.job_id = job_id
        self._is_under_way = True
        self._has_started = False
        self._was_cancelled = False

    def observe(self, warm: int, starting: int, wanted: int, throttled: int = 0) -> WakeEvent:
        """Takes the endpoint's workers, and how many should be there now; returns what that means for the wake.

        throttled: those that wait for a GPU. A worker that has begun to wait is not gone, and another job would bring
        none sooner.
        """
        if not self._is_under_way:
            return WakeEvent.NONE
        if warm:
            self._is_under_way = False
            self.failures = 0
            self.job_id = None
            return WakeEvent.IS_READY
        if starting:
            self._has_started = True
            if starting >= wanted and self.job_id is not None and self._may_cancel:
                self._was_cancelled = True
                return WakeEvent.ENOUGH_START
        elif self._has_started and not throttled:
            self._is_under_way = False
            self.failures += 1
            self._may_cancel = self._may_cancel and not self._was_cancelled
            return WakeEvent.IS_GONE
        elif not wanted and self.job_id is not None:
            self._is_under_way = False
            return WakeEvent.IS_UNWANTED
        return WakeEvent.NONE

    def take_job(self) -> str | None:
        """Returns the job to cancel and forgets it, so that it is cancelled once."""
        job_id = self.job_id
        self.job_id = None
        return job_id
