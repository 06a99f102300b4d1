"""The outputs of a job: pieces of a stream, or one whole answer. `value` is what RunPod is given, as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class StreamPiece:
    """A part of a stream, posted as soon as it is there."""

    #: One or more whole server-sent events.
    value: str


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    """The only output of a job that does not stream."""

    #: Any JSON document.
    value: Any


Output = StreamPiece | WholeAnswer
