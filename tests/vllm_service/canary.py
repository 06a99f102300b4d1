"""Canaries: values that must be seen nowhere. Put them in as key, provider key and prompt; then search what came out.

Usable on everything that a process shows to others: logs, answers, metrics, files, and the process list.
"""

from __future__ import annotations

import base64
import logging
import secrets
import subprocess
import urllib.parse
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


def _fresh(kind: str) -> str:
    return f"{kind}-{secrets.token_hex(12)}"


@dataclass(frozen=True)
class Canaries:
    """A caller's key, a provider's key and a prompt, new for every test."""

    key: str = field(default_factory=lambda: _fresh("sk-canary"))
    provider_key: str = field(default_factory=lambda: _fresh("pk-canary"))
    prompt: str = field(default_factory=lambda: _fresh("Tell nobody"))

    def found_in(self, *outputs: str | bytes) -> list[str]:
        """Names of the canaries that are in there: plain, URL-encoded, as base64, or the first 20 characters of one."""
        text = "\n".join(
            output.decode("utf-8", "replace") if isinstance(output, bytes) else output for output in outputs
        )
        return [name for name, value in vars(self).items() if any(form in text for form in _forms(value))]

    def assert_unseen(self, *outputs: str | bytes) -> None:
        """Fails with the names, not the values. Nothing to search is a mistake of the test."""
        assert any(outputs), "there was no output in which a canary could have been found"
        assert self.found_in(*outputs) == []


def _forms(value: str) -> Iterator[str]:
    yield value[:20]
    yield urllib.parse.quote(value)
    yield urllib.parse.quote_plus(value)
    # Which characters a value becomes depends on where in the text it begins; the middle is the same for each offset.
    for offset in range(3):
        yield base64.b64encode(b"x" * offset + value.encode()).decode()[4 : 4 * (len(value) // 3)]


@contextmanager
def everything_logged() -> Iterator[list[str]]:
    """All records of all loggers from DEBUG on, formatted with their tracebacks, as they are written meanwhile."""
    lines: list[str] = []
    formatter = logging.Formatter("%(levelname)s %(name)s %(message)s")

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(formatter.format(record))

    root, handler = logging.getLogger(), Keeping()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def process_list() -> str:
    """What `ps` shows to every user of the machine: all command lines."""
    return subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True).stdout


def contents(paths: Iterable[Path]) -> list[bytes]:
    """The bytes of these files and of all files below these folders: a ledger, a log, an export."""
    files = (file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*"))))
    return [file.read_bytes() for file in files if file.is_file()]
