"""A file that SQLite can never use is refused at opening, by its path, with what to do."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable
from pathlib import Path

import pytest

from vllm_service.errors import ConfigurationError
from vllm_service.storage.open import DATABASE_FILE, open_database

ROOT = Path(__file__).resolve().parents[3]


async def opened_and_closed(directory: Path) -> None:
    database = await open_database(None, directory)
    await database.close()


def text(path: Path) -> None:
    path.write_text("no database\n" * 1000, "utf-8")


def corrupt(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE a (b)")
    connection.close()
    content = bytearray(path.read_bytes())
    # The header of the first page's tree, behind the 100 bytes of the file's own.
    content[100:200] = b"\xff" * 100
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (Path.mkdir, "(SQLITE_CANTOPEN): it is not a file that can be opened: move it away"),
        (text, "(SQLITE_NOTADB): it is not an SQLite database: move it away"),
        (corrupt, "(SQLITE_CORRUPT): it is corrupt: restore a copy"),
    ],
)
async def test_what_is_no_database_is_refused_by_its_path(
    tmp_path: Path, make: Callable[[Path], None], expected: str
) -> None:
    path = tmp_path / DATABASE_FILE
    make(path)
    with pytest.raises(ConfigurationError) as refused:
        await opened_and_closed(tmp_path)
    assert refused.value.message.startswith(f"{path}: SQLite's file cannot be used {expected}")
    assert "set DATA_DIR to another directory" in refused.value.message
    assert refused.value.param == "DATA_DIR"
    assert not refused.value.is_transient


@pytest.mark.parametrize(("is_directory", "mode"), [(False, 0o400), (True, 0o500)])
async def test_what_is_read_only_is_refused_at_opening_by_its_path(
    tmp_path: Path, is_directory: bool, mode: int
) -> None:
    directory = tmp_path / "data"
    await opened_and_closed(directory)
    path = directory if is_directory else directory / DATABASE_FILE
    path.chmod(mode)
    # Permissions do not bind root, unless that capability is taken away.
    bound = ["setpriv", "--bounding-set=-dac_override"] if os.geteuid() == 0 else []
    command = [*bound, sys.executable, "-m", "vllm_service", "ledger", "export", "--data-dir", str(directory)]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=PIPE, stderr=PIPE)
    output, errors = await process.communicate()
    path.chmod(0o700)
    kind = "directory" if is_directory else "file"
    assert errors.decode().startswith(f"{path}: SQLite's {kind} cannot be written. Change its permissions")
    assert (process.returncode, output) == (1, b"")
