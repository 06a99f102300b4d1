"""A batch's file: one JSON line for each prompt that has ended, so that a stopped batch can be resumed.

A line is written in one write when its prompt has ended. A line that is not an answer of this format, because a crash
cut it short or something else wrote it, is ignored and its prompt is sent again. So is a prompt that failed. Lines are
found by a key of the whole request, so an answer is never reused for a changed prompt, model or option.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
from msgspec import structs

from vllm_service.client.payload import Payload
from vllm_service.client.results import Answer, BatchItem
from vllm_service.errors import ConfigurationError


class _Line(msgspec.Struct):
    key: str


class BatchFile:
    """The open file of a running batch. Raises ConfigurationError if it cannot be read or written."""

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        with _naming(self._path):
            if self._path.exists() and not self._path.is_file():  # reading a device or a pipe may never end
                raise ConfigurationError(f"file: {str(path)!a} is a directory or a device, not a file", param="file")
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
        with _naming(self._path):
            self._file.write(_encoded(line) + b"\n")


def keys_of(asks: Sequence[Payload | None]) -> list[str]:
    """Returns a key for each request, from its route and body. Equal requests get different keys, by their order."""
    seen: Counter[str] = Counter()
    keys = []
    for ask in asks:
        document = None if ask is None else [ask.route, json.loads(ask.plain_json())]
        digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
        seen[digest] += 1
        keys.append(f"{digest}-{seen[digest]}")
    return keys


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Raises ConfigurationError, which names the file, for an OSError. What was written before is kept in the file."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = getattr(error, "strerror", None) or "no file can have this name"
        raise ConfigurationError(f"file: {str(path)!a} cannot be used: {reason}", param="file") from error


def _encoded(line: dict[str, Any]) -> bytes:
    """Returns the line's JSON. Half of a surrogate pair, which no UTF-8 can hold, is written as its escape."""
    try:
        return json.dumps(line, ensure_ascii=False, default=dict).encode()
    except UnicodeEncodeError:
        return json.dumps(line, default=dict).encode()


def _answers(path: Path) -> Iterator[tuple[str, Answer]]:
    if not path.exists():
        return
    with path.open("rb") as lines:
        for line in lines:
            if found := _answer(line):
                yield found


def _answer(line: bytes) -> tuple[str, Answer] | None:
    """Returns the key and the answer of a line; None if it was cut short, is an error's, or is not of this format."""
    try:
        fields = json.loads(line)
        found = msgspec.convert(fields, _Line)
        return found.key, msgspec.convert(fields, Answer)
    except (ValueError, RecursionError):
        return None


def _is_torn(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, 2) == 0:
            return False
        file.seek(-1, 2)
        return file.read(1) != b"\n"
