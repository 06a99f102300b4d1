"""A process of its own that opens the database, to be raced against others or killed in the middle of a migration.

    python -m tests.vllm_service.storage.migration_process open|more|halfway DATABASE_URL DATA_DIR

open: with this program's migrations, when a line comes on stdin. more: likewise, with one migration more. halfway: as
`more`, but says so in the middle of that migration, and goes on when another line comes. "-" is no URL.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

from vllm_service.storage.open import open_database
from vllm_service.storage.sql.migrations import Migration, shipped

STATEMENTS = ("ALTER TABLE requests ADD COLUMN more TEXT", "UPDATE requests SET more = 'x'")


class Halfway:
    """The same statements, with a pause between them the first time."""

    def __init__(self) -> None:
        self._is_first = True

    def __iter__(self) -> Iterator[str]:
        yield STATEMENTS[0]
        if self._is_first:
            self._is_first = False
            say("halfway")
            sys.stdin.readline()
        yield STATEMENTS[1]


def with_one_more(*, halfway: bool = False) -> tuple[Migration, ...]:
    known = shipped()
    return (*known, Migration(len(known) + 1, "more", Halfway() if halfway else STATEMENTS))


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def main(what: str, database_url: str, data_dir: str) -> None:
    say("ready")
    sys.stdin.readline()
    migrations = shipped() if what == "open" else with_one_more(halfway=what == "halfway")
    say("opening")
    database = await open_database(None if database_url == "-" else database_url, Path(data_dir), migrations)
    say("open")
    await database.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
