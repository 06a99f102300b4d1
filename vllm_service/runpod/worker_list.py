"""Reads an endpoint's list of workers as often as the key's rate limit allows; does without it where it is refused.

RunPod limits a key's requests, so all lists of one key take half of what is allowed: the other half is left for
workersMin, deployments, and whatever else the key is used for.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable

from vllm_service.catalog.model import ManagementApi, Provider
from vllm_service.runpod.endpoint import SendHttp
from vllm_service.runpod.one_attempt_api import one_attempt_api
from vllm_service.runpod.rate_limits import RateLimits
from vllm_service.runpod.rest_api import RestApi, endpoint_path
from vllm_service.runpod.rest_errors import RestError
from vllm_service.runpod.workers import EndpointWorkers, parse_workers

#: Of the requests for a list.
TIMEOUT_SECONDS = 5.0
#: These say that the key or the platform has no such list; it is asked for again after an hour.
_REFUSALS = frozenset({401, 403, 404, 410, 501})
_REFUSED_SECONDS = 3600.0
#: The time between two requests of a key as long as no answer has named a limit: 60 a minute.
_SPACING_SECONDS = 1.0
_SHARE = 0.5
_LONGEST_PAUSE_SECONDS = 60.0
_log = logging.getLogger(__name__)


class WorkerList:
    """One endpoint's list. clock: monotonic seconds.

    sharers: returns how many lists are read with this key, by all replicas together.
    """

    def __init__(
        self,
        name: str,
        endpoint_id: str,
        api: RestApi,
        sharers: Callable[[], int],
        clock: Callable[[], float],
        *,
        least_seconds: float,
    ) -> None:
        #: As last read; None: it was not read yet, is not allowed, or the last read failed.
        self.workers: EndpointWorkers | None = None
        #: When it was last read with success.
        self.read_at: float | None = None
        self._name = name
        self._path = f"{endpoint_path(endpoint_id)}/workers"
        self._api = api
        self._sharers = sharers
        self._clock = clock
        self._least_seconds = least_seconds
        self._due_at: float | None = None
        self._failures = 0
        #: Whether the log says that the list is not to be had.
        self._is_reported = False

    def take_over(self, before: WorkerList) -> None:
        """Keeps what was known of the same list before the configuration was read again, but for a refusal.

        The key, or what it may do, can be what has changed.
        """
        self.workers = before.workers
        self.read_at = before.read_at
        if before.workers is not None:
            self._due_at = before._due_at

    @property
    def is_recent(self) -> bool:
        """True if the workers were read within the last two intervals of looks."""
        return self.read_at is not None and 0 <= self._clock() - self.read_at < 2 * self._least_seconds

    async def read(self) -> bool:
        """Reads the list if it is due. Returns whether `workers` has changed, or is known anew. Raises nothing."""
        now = self._clock()
        if self._due_at is not None and now < self._due_at <= now + max(_REFUSED_SECONDS, self._interval()):
            return False
        self._due_at = now + self._interval()
        try:
            workers = parse_workers(await self._api.get(self._path))
        except RestError as error:
            self._failed(error)
            return True
        if workers is None:
            self._failed(None)
            return True
        self._found(workers)
        self._due_at = now + self._interval()  # the answer may have named the limit
        return True

    def _found(self, workers: EndpointWorkers) -> None:
        if self._is_reported:
            _log.info("%s: its workers are listed again", self._name)
        self._is_reported = False
        self._failures = 0
        self.workers = workers
        self.read_at = self._clock()

    def _failed(self, error: RestError | None) -> None:
        """Forgets the workers. error: None for an answer that is no list."""
        self.workers = None
        self._failures += 1
        now = self._clock()
        status = None if error is None else error.status
        if status in _REFUSALS or error is None:
            self._due_at = now + _REFUSED_SECONDS
            why = f"{self._path} answers no list of workers" if error is None else error.message
            if not self._is_reported:
                _log.warning("%s: /health counts its workers, since they cannot be listed: %s", self._name, why)
            self._is_reported = True
        elif status != 429:
            pause = self._interval() * 2.0 ** min(self._failures - 1, 20)
            self._due_at = now + min(pause, max(_LONGEST_PAUSE_SECONDS, self._interval()))

    def _interval(self) -> float:
        """Returns the time between two reads."""
        spacing = self._api.spacing_seconds("GET", self._path) or _SPACING_SECONDS
        return max(self._least_seconds, self._sharers() * spacing / _SHARE)


class WorkerLists:
    """Makes the lists of all endpoints, which share the rate limits of their keys.

    replicas: how many processes read them; None, unknown: none is read, because they could use up a key's limit.
    """

    def __init__(
        self,
        send: SendHttp,
        limits: RateLimits,
        replicas: int | None,
        clock: Callable[[], float],
        *,
        least_seconds: float,
    ) -> None:
        self._send = send
        self._limits = limits
        self._replicas = replicas
        self._clock = clock
        self._least_seconds = least_seconds
        #: How many endpoints are listed, by where they are managed and with which key.
        self._sharers: Counter[tuple[str, str | None]] = Counter()

    def share(self, providers: Iterable[Provider]) -> None:
        """Sets between which endpoints the limits are shared."""
        self._sharers = Counter(key for provider in providers if (key := _key_of(provider)) is not None)

    def of(self, provider: Provider) -> WorkerList | None:
        """Returns the endpoint's list; None where it is not to be read, or there is none."""
        management, replicas, key = provider.management, self._replicas, _key_of(provider)
        if management is None or replicas is None or key is None:
            return None
        api = one_attempt_api(
            *(provider, management, self._send),
            timeout_seconds=TIMEOUT_SECONDS,
            limits=self._limits,
            clock=self._clock,
        )
        return WorkerList(
            provider.name,
            management.endpoint_id,
            api,
            lambda: replicas * self._sharers[key],
            self._clock,
            least_seconds=self._least_seconds,
        )


def _key_of(provider: Provider) -> tuple[str, str | None] | None:
    management = provider.management
    if management is None or management.api is not ManagementApi.V2:
        return None
    return management.origin, provider.api_key
