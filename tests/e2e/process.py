"""Runs the worker as its users do: as a process, in an environment of its own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 240  # generous: CI may run on two busy cores


@dataclass(frozen=True)
class Finished:
    """How a process ended, and what it wrote."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.stdout)

    @property
    def complaints(self) -> list[str]:
        """Lines on stderr, but for development mode's remarks on slow turns of the loop: a busy machine has those."""
        lines = self.stderr.splitlines()
        return [line for line in lines if not re.fullmatch(r"Executing <.*> took [\d.]+ seconds", line)]


def environment(**variables: str) -> dict[str, str]:
    """What a fresh shell has, and no setting of the worker but the given ones."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"HF_HUB_OFFLINE": "1"} | variables


async def start(*arguments: str, variables: Mapping[str, str], directory: Path = ROOT) -> asyncio.subprocess.Process:
    """Starts `python ...` in the directory, with its output piped."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=directory,
        env=environment(**variables),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def run(*arguments: str, **variables: str) -> Finished:
    """Runs `python ...` to its end."""
    return await run_in(ROOT, *arguments, **variables)


async def run_in(directory: Path, *arguments: str, **variables: str) -> Finished:
    """Runs `python ...` in the directory to its end."""
    process = await start(*arguments, variables=variables, directory=directory)
    async with asyncio.timeout(START_SECONDS):
        stdout, stderr = await process.communicate()
    return Finished(process.returncode or 0, stdout.decode(), stderr.decode())
