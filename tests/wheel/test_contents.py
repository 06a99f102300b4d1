"""What travels in the wheel: every file of the packages that git knows, the licence, and nothing else."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

from tests.wheel.installed import ROOT


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_every_file_of_the_two_packages_travels_and_no_other(wheel: Path) -> None:
    """A file that git does not know yet counts too, so that a new one is tested before it is committed."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "vllm_service", "runpod_emulator"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    packed = {name for name in names(wheel) if ".dist-info/" not in name}
    assert packed == {name for name in listed if (ROOT / name).exists()}


def test_the_licence_and_the_console_script_travel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (licence,) = (name for name in archive.namelist() if name.endswith("/licenses/LICENSE"))
        (scripts,) = (name for name in archive.namelist() if name.endswith("/entry_points.txt"))
        (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        assert "Apache License" in archive.read(licence).decode()
        assert "vllm-service = vllm_service.__main__:main" in archive.read(scripts).decode()
        assert "License-Expression: Apache-2.0" in archive.read(metadata).decode()
