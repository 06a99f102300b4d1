"""Finds the known word that a misspelt one may mean, for errors about files and arguments."""

from __future__ import annotations

import difflib
from collections.abc import Collection


def nearest(word: str, known: Collection[str]) -> str:
    """Returns the hint at the most similar known word; empty if none is similar."""
    near = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""
