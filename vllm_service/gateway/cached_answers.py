"""Which answers may be given again, and under which key: the same request, asked at temperature 0."""

from __future__ import annotations

import hashlib

import msgspec

from vllm_service.gateway.context import RequestContext
from vllm_service.gateway.operations import EMBEDDINGS

# What does not change the answer. Streams have keys of their own: they are replayed as they were.
_ASIDE = ("stream_options", "user", "metadata", "safety_identifier")


def cache_key(call: RequestContext) -> bytes | None:
    """A digest of the request in canonical form; None when it is not to be cached.

    At temperature 0, for embeddings, or with the header `x-cache: on`; never with `x-cache: off`.
    """
    wish = call.headers.get(b"x-cache")
    is_repeatable = call.fields.temperature == 0 or call.operation is EMBEDDINGS
    if wish == b"off" or not (is_repeatable or wish == b"on"):
        return None
    try:
        members = msgspec.json.decode(call.request.body)
        for name in _ASIDE:
            members.pop(name, None)
        members["model"], members["stream"] = call.model.name, call.fields.stream is True
        canonical = msgspec.json.encode([call.operation.name, members], order="sorted")
    except (msgspec.DecodeError, RecursionError):  # too large a number, or too deep, in a member that was only skipped
        return None
    return hashlib.sha256(canonical).digest()
