"""What a job answers with: pieces of a stream, or one whole answer; and what its final result holds of them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class StreamPiece:
    """A part of a stream, posted as soon as it is there."""

    #: One or more whole server-sent events.
    text: str


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    """The only output of a job that does not stream."""

    #: JSON.
    document: Any


Output = StreamPiece | WholeAnswer


def value_of(output: Output) -> Any:
    """Returns what RunPod is given of an output."""
    match output:
        case StreamPiece(text):
            return text
        case WholeAnswer(document):
            return document


def keeps_stream(job_input: object) -> bool:
    """Whether the end of a streaming job repeats its pieces, as readers of /status expect.

    On an OpenAI route they were delivered to whoever asked, and are not sent a second time.
    """
    return not (isinstance(job_input, dict) and "openai_route" in job_input)


def final_output(job_input: object, kept: Sequence[Output]) -> Any:
    """What the end of a job carries: the pieces of a stream that were kept, or the plain answer.

    A plain answer on an OpenAI route is a list of one, as RunPod's proxy knows it from the official worker.
    """
    match kept:
        case [WholeAnswer(document)] if keeps_stream(job_input):
            return document
        case [] if keeps_stream(job_input):
            return None
    return [value_of(output) for output in kept]
