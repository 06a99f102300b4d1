"""The header that names the worker: on each answer, and in requests that want the same one again."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from runpod_emulator.errors import BadRequest

WORKER_HEADER = "X-Runpod-Worker-Id"


class Mode(StrEnum):
    """The degree to which a request depends on its worker."""

    #: Another worker serves it where this one cannot.
    SOFT = ""
    #: It waits for this worker, and fails where that is gone.
    STRICT = "strict"
    #: As strict; a worker that was scaled down is started again.
    STRICT_RESUME = "strict-resume"


@dataclass(frozen=True)
class Affinity:
    """The worker that a request asks for."""

    worker_id: str
    mode: Mode


def parse_affinity(header: str | None) -> Affinity | None:
    """Returns what the header's value asks for; None without one. Raises BadRequest for `strict` without an id.

    Any other text is the id of a worker; one that there is not costs a request of mode SOFT nothing.
    """
    words = (header or "").split()
    if not words:
        return None
    if words[0] not in (Mode.STRICT, Mode.STRICT_RESUME):
        return Affinity(" ".join(words), Mode.SOFT)
    if len(words) != 2:
        raise BadRequest(f"{WORKER_HEADER}: expected `{words[0]} WORKER_ID`")
    return Affinity(words[1], Mode(words[0]))
