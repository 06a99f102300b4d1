"""Builds the wheel, makes environments that hold it, runs its console script there."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.process import Finished

ROOT = Path(__file__).resolve().parents[2]
# What the build reads. A build in the checkout itself would find the leavings of earlier ones.
SOURCES = ("LICENSE", "README.md", "pyproject.toml", "runpod_emulator", "vllm_service")
RUN_SECONDS = 120


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel in it."""

    folder: Path

    @property
    def script(self) -> Path:
        """The console script."""
        return self.folder / "bin" / "vllm-service"

    def environment(self, **variables: str) -> dict[str, str]:
        """What a shell has that this environment was activated in."""
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        return {"PATH": path, "HOME": os.environ["HOME"], "LANG": "C.UTF-8", "TERM": "dumb"} | variables

    async def run(self, directory: Path, program: str, *arguments: str, **variables: str) -> Finished:
        """Runs a program of the environment, or of the machine, to its end."""
        process = await asyncio.create_subprocess_exec(
            shutil.which(program, path=self.environment()["PATH"]) or program,
            *arguments,
            cwd=directory,
            env=self.environment(**variables),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(RUN_SECONDS):
            stdout, stderr = await process.communicate()
        return Finished(process.returncode or 0, stdout.decode(), stderr.decode())


def build(folder: Path) -> Path:
    """Returns the wheel. Nothing is downloaded: setuptools is in this environment."""
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source))
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(folder: Path, wheel: Path, lock: Path | None) -> Installed:
    """Returns a new environment with what the lock pins, from where pip is configured to look, and the wheel."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    install_here = ("--python", str(folder / "bin" / "python"), "install", "--no-deps")
    if lock is not None:
        _pip(*install_here, "--require-hashes", "-r", str(lock))
    _pip(*install_here, str(wheel))
    return Installed(folder)


def _pip(*arguments: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", *arguments], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
