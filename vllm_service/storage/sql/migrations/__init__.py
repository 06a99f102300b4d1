"""The schema's changes, one file each: `0002_what_changes.sql`. docs/ledger.md describes how to write one.

A file holds statements that are valid in SQLite and in Postgres, each ended by a semicolon at the end of a line. `{id}`
stands for the database's own type of a growing row id. The statements of a released file never change: databases out
there have executed them, and the next change is the next number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources

_FILE = re.compile(r"(\d{4})_(\w+)\.sql")


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema, from the version before it to `version`."""

    version: int
    name: str
    statements: Iterable[str]


def shipped() -> tuple[Migration, ...]:
    """Returns all migrations of this program, the oldest first. Their numbers have no gaps: the last is their count."""
    files = sorted(resources.files(__package__).iterdir(), key=lambda file: file.name)
    found = ((_FILE.fullmatch(file.name), file) for file in files)
    return tuple(
        Migration(int(match[1]), match[2], statements_of(file.read_text("utf-8")))
        for match, file in found
        if match is not None
    )


def statements_of(text: str) -> Sequence[str]:
    """Splits a file into its statements, without the comments."""
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("--"))
    return tuple(statement.strip() for statement in re.split(r";\s*$", code, flags=re.MULTILINE) if statement.strip())
