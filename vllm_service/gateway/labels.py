"""Labels of a request: short texts by name, which go to the ledger beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping

from vllm_service.errors import InvalidRequest

# The limits of OpenAI's `metadata`, so that what fits there fits here.
MOST_LABELS = 16
LONGEST_NAME = 64
LONGEST_VALUE = 512


def labels_text(labels: Mapping[str, str]) -> str | None:
    """Returns labels as the ledger keeps them: one JSON object, names in order; None where there are none.

    Raises InvalidRequest, which names the label, for too many, and for one that is too long or no text.
    """
    if not labels:
        return None
    if len(labels) > MOST_LABELS:
        raise InvalidRequest(f"labels: {len(labels)} are too many, {MOST_LABELS} are allowed.", param="labels")
    for name, value in labels.items():
        if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME:
            raise InvalidRequest(f"labels: a name is a text of 1 to {LONGEST_NAME} characters.", param="labels")
        if not isinstance(value, str) or len(value) > LONGEST_VALUE:
            what = f"labels.{name}: a value is a text of at most {LONGEST_VALUE} characters."
            raise InvalidRequest(what, param=f"labels.{name}")
    return json.dumps(dict(sorted(labels.items())), ensure_ascii=False, separators=(",", ":"))


def labels_in(text: str | None) -> dict[str, str]:
    """Returns what `labels_text` was made of."""
    return {} if text is None else dict(json.loads(text))
