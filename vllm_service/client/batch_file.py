"""A batch's file: one JSON line for each prompt that has ended, so that a stopped batch can be resumed.

A line is written in one write when its prompt has ended. A line that a crash cut short is ignored and its prompt is
sent again, and so is a prompt that failed. Lines are found by a key of the whole request, so an answer is never reused
for a changed prompt, model or option.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from msgspec import structs

from vllm_service.client.payload import Payload
from vllm_service.client.results import Answer, BatchItem
from vllm_service.domain.usage import Usage


class BatchFile:
    """The open file of a running batch. Raises OSError."""

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._answers = dict(_answers(self._path))
        # Unbuffered: each write() is one system call, so that a crash loses at most the line that is being written.
        self._file = self._path.open("ab", buffering=0)
        if _is_torn(self._path):
            self._file.write(b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def answer(self, key: str) -> Answer | None:
        """Returns the answer of an earlier run, or None."""
        return self._answers.get(key)

    def write(self, key: str, item: BatchItem) -> None:
        """Writes one line: the answer's fields, or the error's code and message, but never the prompt."""
        line: dict[str, Any] = {"key": key, "index": item.index}
        if item.answer is not None:
            usage = item.answer.usage
            line |= asdict(item.answer) | {"usage": None if usage is None else structs.asdict(usage)}
        elif item.error is not None:
            line["error"] = {"status": item.error.status, "code": item.error.code, "message": item.error.message}
        self._file.write(json.dumps(line, ensure_ascii=False, default=dict).encode("utf-8", "surrogatepass") + b"\n")


def keys_of(asks: Sequence[Payload | None]) -> list[str]:
    """Returns a key for each request, from its route and body. Equal requests get different keys, by their order."""
    seen: Counter[str] = Counter()
    keys = []
    for ask in asks:
        document = None if ask is None else [ask.route, ask.body]
        digest = hashlib.sha256(json.dumps(document, sort_keys=True, default=repr).encode()).hexdigest()
        seen[digest] += 1
        keys.append(f"{digest}-{seen[digest]}")
    return keys


def _answers(path: Path) -> Iterator[tuple[str, Answer]]:
    if not path.exists():
        return
    with path.open("rb") as lines:
        for line in lines:
            if found := _answer(line):
                yield found


def _answer(line: bytes) -> tuple[str, Answer] | None:
    try:
        fields = json.loads(line)
        key = fields.pop("key")
        usage = fields["usage"]
        names = Answer.__dataclass_fields__.keys() & fields.keys()
        known = {name: fields[name] for name in names} | {"usage": None if usage is None else Usage(**usage)}
        return (key, Answer(**known)) if isinstance(key, str) and isinstance(known["text"], str) else None
    except (ValueError, TypeError, KeyError, AttributeError):  # cut short, an error's, or not of this format
        return None


def _is_torn(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, 2) == 0:
            return False
        file.seek(-1, 2)
        return file.read(1) != b"\n"
