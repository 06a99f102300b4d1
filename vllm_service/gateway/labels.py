"""Labels of a request: short texts by name, which the ledger keeps in the request's row."""

from __future__ import annotations

import json
from collections.abc import Mapping

from vllm_service.errors import InvalidRequest

# The limits of OpenAI's `metadata`, so that what fits there fits here.
MOST_LABELS = 16
LONGEST_NAME = 64
LONGEST_VALUE = 512


def labels_text(labels: Mapping[str, str]) -> str | None:
    """Returns labels as the ledger keeps them: one JSON object with sorted names; None if there are none.

    Raises InvalidRequest for too many labels, and for one that is too long or not a text; it names the label.
    """
    if not isinstance(labels, Mapping):
        raise InvalidRequest("labels: expected texts by name.", param="labels")
    if not labels:
        return None
    if len(labels) > MOST_LABELS:
        raise InvalidRequest(f"labels: {len(labels)} are too many, {MOST_LABELS} are allowed.", param="labels")
    for name, value in labels.items():
        if not _is_text(name, LONGEST_NAME) or not name:
            raise InvalidRequest(f"labels: a name is a text of 1 to {LONGEST_NAME} characters.", param="labels")
        if not _is_text(value, LONGEST_VALUE):
            what = f"labels.{name}: a value is a text of at most {LONGEST_VALUE} characters."
            raise InvalidRequest(what, param=f"labels.{name}")
    return json.dumps(dict(sorted(labels.items())), ensure_ascii=False, separators=(",", ":"))


def labels_in(text: str | None) -> dict[str, str]:
    """Returns the labels of a ledger row; the inverse of `labels_text`."""
    return {} if text is None else dict(json.loads(text))


def _is_text(value: object, longest: int) -> bool:
    """Returns whether it is a text of so many characters at most, without half a surrogate, which no database takes."""
    return isinstance(value, str) and len(value) <= longest and not any("\ud800" <= char <= "\udfff" for char in value)
