"""A command whose reader ends early, as `head` does, ends quietly with the shell's code for a broken pipe."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from tests.vllm_service.storage.ledger.test_ledger import RECORD
from vllm_service.storage.open import open_storage

#: More than a pipe holds (64 KiB), so that the command still writes when its reader ends.
ROWS = 2_000


@contextmanager
def started(*arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes], IO[bytes]]]:
    """Yields the command's process, standard output and standard error."""
    # -E: with PYTHONUNBUFFERED argparse itself would pass over the failed write of `--help`, with exit code 0.
    command = [sys.executable, "-E", "-m", "vllm_service", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        yield process, process.stdout, process.stderr


async def test_an_export_whose_reader_ends_after_a_line_ends_quietly(tmp_path: Path) -> None:
    async with open_storage(None, None, tmp_path) as storage:
        for _ in range(ROWS):
            storage.ledger.record(RECORD)
    with started("ledger", "export", "--data-dir", str(tmp_path)) as (process, output, errors):
        assert output.readline().startswith(b"id,")
        output.close()
        assert errors.read() == b""
    assert process.returncode == 141


@pytest.mark.parametrize(
    "arguments", [("compare", "--example"), ("compare", "--example", "--json"), ("examples", "list"), ("--help",)]
)
def test_a_command_whose_reader_is_gone_from_the_start_ends_quietly(arguments: tuple[str, ...]) -> None:
    with started(*arguments) as (process, output, errors):
        output.close()
        assert errors.read() == b""
    assert process.returncode == 141
