"""What a job's outputs are: one JSON document, or pieces of a stream; and what its final result holds of them. Pure."""

from __future__ import annotations

from typing import Any


class EventText(str):
    """The text of one or more whole server-sent events."""

    __slots__ = ()


Output = Any  # a JSON document, or EventText


def keeps_stream(job_input: object) -> bool:
    """Whether the end of a streaming job repeats its pieces, as readers of /status expect.

    On an OpenAI route they were delivered to whoever asked, and are not sent a second time.
    """
    return not (isinstance(job_input, dict) and "openai_route" in job_input)


def final_output(job_input: object, kept: list[Output], *, is_stream: bool) -> Any:
    """What the end of a job carries: the pieces of a stream that were kept, or the plain answer.

    A plain answer on an OpenAI route is a list of one, as RunPod's proxy knows it from the official worker.
    """
    if is_stream or not keeps_stream(job_input):
        return kept
    return next(iter(kept), None)
