"""Whose fault it is when reading fails: the other side's, who sent no HTTP, or our own, in what reads it."""

from __future__ import annotations

import httptools


def fault_in(error: Exception) -> BaseException | None:
    """What code of ours raised, which httptools wraps in an error of its own; None: what came is not HTTP."""
    if isinstance(error, httptools.HttpParserCallbackError):
        raised = error.__context__
        return None if isinstance(raised, httptools.HttpParserError) else raised
    return None if isinstance(error, httptools.HttpParserError | httptools.HttpParserUpgrade) else error
