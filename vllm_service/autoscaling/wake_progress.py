"""The course of one replica's wake of an endpoint: when its job has done its work, and when the wake has failed. Pure.

The warm-up job has done its work when as many workers start as are wanted: while it waits on, for a whole cold start,
a platform that scales by queue delay starts one more every few seconds. So it is cancelled then. Should a worker
be gone before it was ready, and a job had been cancelled, the platform may have taken that for the end of all demand:
from then on jobs of this endpoint are left to wait.
"""

from __future__ import annotations

from enum import StrEnum


class Turn(StrEnum):
    """What a look at the endpoint means for the wake."""

    NONE = "none"
    ENOUGH_START = "enough_start"  # cancel the job
    IS_READY = "is_ready"  # the next wake need not wait for the lease's end
    IS_GONE = "is_gone"  # who started is gone before it was ready: the wake has failed
    IS_UNWANTED = "is_unwanted"  # cancel the job; nobody had started


class WakeProgress:
    """job_id: of the job that waits, as far as is known. failures: wakes in a row whose workers never got ready."""

    def __init__(self) -> None:
        self.job_id: str | None = None
        self.failures = 0
        self._is_under_way = self._has_started = self._was_cancelled = False
        self._may_cancel = True

    def began(self, job_id: str) -> None:
        """This replica has sent the job."""
        self.job_id = job_id
        self._is_under_way, self._has_started, self._was_cancelled = True, False, False

    def saw(self, warm: int, starting: int, wanted: int) -> Turn:
        """Workers of the endpoint, and how many the router wants now."""
        if not self._is_under_way:
            return Turn.NONE
        if warm:
            self._is_under_way, self.failures, self.job_id = False, 0, None
            return Turn.IS_READY
        if starting:
            self._has_started = True
            if starting >= wanted and self.job_id is not None and self._may_cancel:
                self._was_cancelled = True
                return Turn.ENOUGH_START
        elif self._has_started:
            self._is_under_way = False
            self.failures += 1
            self._may_cancel = self._may_cancel and not self._was_cancelled
            return Turn.IS_GONE
        elif not wanted and self.job_id is not None:
            self._is_under_way = False
            return Turn.IS_UNWANTED
        return Turn.NONE

    def take_job(self) -> str | None:
        """The job to cancel; it is then no longer known."""
        job_id, self.job_id = self.job_id, None
        return job_id
