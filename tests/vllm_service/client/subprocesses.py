"""Runs a program of an application in a process and an environment of its own, beside the test's scripted servers."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
SECONDS = 60


async def run_program(program: str, directory: Path, **variables: str) -> str:
    """Returns what it printed. Fails if it ends with an error, hangs, or leaves anything open (ResourceWarning)."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-X", "dev", "-W", "error::ResourceWarning", "-c", program),
        cwd=directory,
        env=kept | {"PYTHONPATH": str(ROOT)} | variables,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, complaints = await asyncio.wait_for(process.communicate(), SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    errors = complaints.decode()
    assert process.returncode == 0, errors
    assert "ResourceWarning" not in errors, errors
    assert "Exception ignored" not in errors, errors
    return output.decode()
