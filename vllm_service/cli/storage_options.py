"""Where commands find what the gateway keeps: the service's settings, unless the command line says otherwise."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from rich.console import Console

from vllm_service.errors import ConfigurationError, ServiceError
from vllm_service.settings import ServiceSettings
from vllm_service.storage.open import DATABASE_FILE, open_database
from vllm_service.storage.sql.database import Database


def add_location(parser: argparse.ArgumentParser) -> None:
    """The flags that say which database."""
    parser.add_argument(
        "--database-url",
        help="Postgres; DATABASE_URL by default, and better for a URL with a password, which `ps` would show",
    )
    parser.add_argument("--data-dir", type=Path, help="where SQLite's file is; DATA_DIR by default")


def wide_console() -> Console:
    """For tables: as wide as the terminal, or wide enough where there is none and lines can be of any length."""
    return Console(width=None if sys.stdout.isatty() else 200)


def with_database(
    options: argparse.Namespace,
    work: Callable[[Database, ServiceSettings], Awaitable[int]],
    *,
    must_exist: bool = False,
) -> int:
    """Opens the database, works, closes it; 1 and the error's text if it cannot be used.

    must_exist: where there is no database, none is made.
    """
    settings = ServiceSettings.from_environment()

    async def opened() -> int:
        database_url = options.database_url or (None if options.data_dir else settings.database_url)
        data_dir = options.data_dir or settings.data_dir
        if must_exist and database_url is None and not (data_dir / DATABASE_FILE).exists():
            raise ConfigurationError(f"there is no ledger in {data_dir}: say where it is by DATA_DIR or DATABASE_URL")
        database = await open_database(database_url, data_dir)
        try:
            return await work(database, settings)
        finally:
            await database.close()

    try:
        return asyncio.run(opened())
    except ServiceError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
