"""The outputs of a job: pieces of a stream, or one whole answer. `value` is what RunPod is given, as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class StreamPiece:
    """A part of a stream, posted as soon as it is there."""

    #: Whole server-sent events, or a part of one that is too large for one post. All pieces joined are the stream.
    value: str


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    """The only output of a job that does not stream."""

    #: Any JSON document.
    value: Any


Output = StreamPiece | WholeAnswer
