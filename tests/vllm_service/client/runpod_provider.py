"""A scripted provider with the addresses of a RunPod endpoint, and streams of text completions for it."""

from __future__ import annotations

from vllm_service import RetryPolicy
from vllm_service.testing import USAGE, Action, Reply, Script, ScriptedProvider, begun, completion_chunk, events

AT_ONCE = RetryPolicy(attempts=3, wait_min_seconds=0, wait_max_seconds=0.001, jitter_seconds=0)
#: The path of the base URL that a client of the endpoint `ep` has.
PATH = "/v2/ep/openai/v1"
#: The chunk with the reason of the end.
STOP = completion_chunk("", "stop")
#: The chunk with the usage.
LAST = completion_chunk("", choices=[], usage=USAGE)


def runpod(script: Script | Reply) -> ScriptedProvider:
    return ScriptedProvider(script, path=PATH)


def stream(*items: object) -> Reply:
    """Returns a stream of text completions: strings are the texts of chunks, other values are events as they are."""
    return events(*map(_chunk, items))


def stream_then(end: Action, *items: object) -> Reply:
    """Returns a stream as `stream` does, but with something else in place of its end."""
    return begun(*map(_chunk, items)).then(end)


def _chunk(item: object) -> object:
    return completion_chunk(item) if isinstance(item, str) else item
