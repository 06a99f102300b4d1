"""Keeps a conversation on the worker of a load-balancing endpoint that has read its beginning. Pure.

A pin is given up when it would keep a worker that should go: the router wants fewer workers, the worker is stale,
throttled, unhealthy or gone, or the conversation has been silent for the endpoint's idle time-out, which ends it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection

import msgspec

#: The most pins of all organisations, and of one.
MOST_PINS = 20_000
MOST_OF_ONE = 2_000
#: It becomes part of a header; another text is no id of RunPod's.
_WORKER_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class _Pin(msgspec.Struct):
    worker: str
    #: By the caller's clock.
    until: float


class _Workers(msgspec.Struct):
    """The workers of one endpoint as last seen, with the number of conversations at each that is to stay."""

    #: None: not known one by one.
    usable: frozenset[str] | None = None
    #: None: none is to be let go.
    staying: Counter[str] | None = None

    def keeps(self, worker: str) -> bool:
        """Returns whether the worker may be asked for."""
        if self.staying is not None:
            return worker in self.staying
        return self.usable is None or worker in self.usable


class WorkerPins:
    """The pins of all organisations, by provider and conversation; bounded, the oldest go first. Times are seconds.

    A conversation is the hash of an organisation and of how its prompt begins.
    """

    def __init__(self, most: int = MOST_PINS, most_of_one: int = MOST_OF_ONE) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._pins: dict[str, dict[tuple[str, bytes], _Pin]] = {}
        self._number = 0
        self._workers: dict[str, _Workers] = {}

    def __len__(self) -> int:
        """Returns the number of pins."""
        return self._number

    def worker_for(self, provider: str, organisation: str, conversation: bytes, now: float) -> str | None:
        """Returns the worker to ask for; None: any.

        While a worker is to be let go, what is pinned to none goes to one that stays: the balancer would choose the
        least loaded worker, which is the one that should become idle.
        """
        workers = self._workers.get(provider)
        pin = self._pins.get(organisation, {}).get((provider, conversation))
        if pin is not None and pin.until > now and (workers is None or workers.keeps(pin.worker)):
            return pin.worker
        if workers is None or not workers.staying:
            return None
        worker = min(workers.staying, key=workers.staying.__getitem__)
        workers.staying[worker] += 1
        return worker

    def served(self, provider: str, organisation: str, conversation: bytes, worker: str, until: float) -> None:
        """Takes the worker that has read the conversation. Another text than a worker's id changes nothing."""
        if not _WORKER_ID.fullmatch(worker):
            return
        pins = self._pins.setdefault(organisation, {})
        if pins.pop((provider, conversation), None) is None:
            self._number += 1
        pins[provider, conversation] = _Pin(worker, until)  # what was read last comes last
        if len(pins) > self._most_of_one:
            self._forget_oldest(organisation)
        elif self._number > self._most:
            self._forget_oldest(max(self._pins, key=lambda name: len(self._pins[name])))

    def observe(self, provider: str, usable: Collection[str] | None, *, warm: int, wanted: int, now: float) -> None:
        """Takes what is known of an endpoint's workers.

        usable: the ids of those that run, are healthy and of the present version; None where they cannot be listed, and
        then no pin holds while there are more than wanted. warm: their number. wanted: by the router.
        """
        listed = None if usable is None else frozenset(usable)
        staying: Counter[str] | None = None
        if warm > wanted and listed is None:
            staying = Counter()
        elif listed is not None and len(listed) > wanted:
            held = self._conversations(provider, now)
            most_first = sorted(listed, key=lambda worker: (-held[worker], worker))
            staying = Counter({worker: held[worker] for worker in most_first[:wanted]})
        self._workers[provider] = _Workers(listed, staying)

    def expire(self, now: float) -> None:
        """Forgets the conversations that have been silent for too long."""
        for organisation in list(self._pins):
            pins = self._pins[organisation]
            over = [key for key, pin in pins.items() if pin.until <= now]
            for key in over:
                del pins[key]
            self._number -= len(over)
            if not pins:
                del self._pins[organisation]

    def _conversations(self, provider: str, now: float) -> Counter[str]:
        return Counter(
            pin.worker
            for pins in self._pins.values()
            for (name, _), pin in pins.items()
            if name == provider and pin.until > now
        )

    def _forget_oldest(self, organisation: str) -> None:
        pins = self._pins[organisation]
        del pins[next(iter(pins))]
        self._number -= 1
        if not pins:
            del self._pins[organisation]
