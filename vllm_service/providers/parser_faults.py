"""Whose fault it is when httptools stops: the other side's, who sent no HTTP, or our own, in a callback."""

from __future__ import annotations

import httptools


def own_fault(error: httptools.HttpParserError) -> BaseException | None:
    """What a callback of ours raised, which httptools wraps in an error of its own; None: what came is not HTTP."""
    if not isinstance(error, httptools.HttpParserCallbackError):
        return None
    return None if isinstance(error.__context__, httptools.HttpParserError) else error.__context__
