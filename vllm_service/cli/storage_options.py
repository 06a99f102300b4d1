"""The arguments by which commands find the gateway's database; the service's settings by default."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from rich.console import Console

from vllm_service.settings import ServiceSettings
from vllm_service.storage.open import open_database
from vllm_service.storage.sql.database import Database


def add_location(parser: argparse.ArgumentParser) -> None:
    """Adds --database-url and --data-dir."""
    parser.add_argument(
        "--database-url",
        metavar="URL",
        help="Postgres (default: DATABASE_URL, the safer one for a password: `ps` shows arguments)",
    )
    parser.add_argument("--data-dir", type=Path, metavar="DIRECTORY", help="of SQLite's file (default: DATA_DIR)")


def wide_console() -> Console:
    """Returns a console for tables: as wide as the terminal, or 200 columns wide in a pipe or file."""
    return Console(width=None if sys.stdout.isatty() else 200)


def with_database(
    options: argparse.Namespace,
    work: Callable[[Database, ServiceSettings], Awaitable[int]],
    *,
    must_exist: bool = False,
) -> int:
    """Opens the database, runs `work` and closes it; returns its exit code. Raises ServiceError.

    must_exist: for work that only reads. A database that is not there is a wrong address, not an empty ledger.
    """
    settings = ServiceSettings.from_environment()

    async def opened() -> int:
        database_url = options.database_url or (None if options.data_dir else settings.database_url)
        data_dir = options.data_dir or settings.data_dir
        database = await open_database(database_url, data_dir, must_have_tables=must_exist)
        try:
            return await work(database, settings)
        finally:
            await database.close()

    return asyncio.run(opened())
