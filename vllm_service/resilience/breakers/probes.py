"""The right to send one request, and the probes of one breaker that are out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True, eq=False)
class Admission:
    """The right to send one request."""

    #: A result of an older generation is ignored: that request was sent before the breaker's last change.
    generation: int
    is_probe: bool = False
    #: The right by the breaker of the organisation that sends it; None where it has none. See offer_breaker.py.
    own: Admission | None = None

    @property
    def probes_any(self) -> bool:
        """True if it is a probe of everyone's breaker or of the organisation's own."""
        return self.is_probe or (self.own is not None and self.own.is_probe)


class _Probe(NamedTuple):
    """A probe that is out."""

    #: None: another replica's.
    admission: Admission | None
    since: float
    #: It is taken for lost after these.
    seconds: float


class Probes:
    """The probes that are out, by the organisation that has sent them: one for each at most."""

    def __init__(self) -> None:
        self._out: dict[str, _Probe] = {}

    @property
    def are_out(self) -> bool:
        """True if there are any, lost ones among them."""
        return bool(self._out)

    def send(self, organisation: str, admission: Admission | None, now: float, seconds: float) -> None:
        """Adds a probe, for so long at most. admission: None for one that another replica has sent."""
        self._out[organisation] = _Probe(admission, now, seconds)

    def end(self, organisation: str) -> None:
        """Removes a probe that has a result, or was not sent."""
        self._out.pop(organisation, None)

    def clear(self) -> None:
        """Removes all of them."""
        self._out.clear()

    def is_out(self, organisation: str, admission: Admission) -> bool:
        """Returns whether this very probe is out, so that its result counts."""
        probe = self._out.get(organisation)
        return probe is not None and probe.admission is admission

    def have_room(self, organisation: str, most: int, now: float) -> bool:
        """Returns whether the organisation may send a probe; of all organisations `most` may be out."""
        for sender, probe in list(self._out.items()):
            since = min(probe.since, now)  # a clock that went back must not keep a lost probe for longer
            if now - since >= probe.seconds:
                del self._out[sender]
            else:
                self._out[sender] = probe._replace(since=since)
        out = sum(probe.admission is not None for probe in self._out.values())
        return organisation not in self._out and out < most
