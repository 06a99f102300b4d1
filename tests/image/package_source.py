"""Hands the host's pip configuration to a build, as a secret and read-only mounts: no image names it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit


def pip_options(directory: Path) -> tuple[str, ...]:
    """`podman build` options; the secret's file is written to `directory`."""
    settings = _settings()
    secret = directory / "pip.conf"
    secret.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
    secret.chmod(0o600)
    mounts = [option for path in _local_paths(settings) for option in ("--volume", f"{path}:{path}:ro")]
    return ("--secret", f"id=pip_conf,src={secret}", *mounts)


def _settings() -> dict[str, str]:
    """What applies to every command, the environment's word over the files'."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    settings: dict[str, str] = {}
    for line in sorted(listed.splitlines(), key=lambda line: line.startswith(":env:")):
        section, _, value = line.partition("=")
        scope, _, name = section.rpartition(".")
        if scope in ("global", ":env:"):
            settings[name] = str(ast.literal_eval(value))
    return settings


def _local_paths(settings: dict[str, str]) -> list[Path]:
    """An index on this machine is mounted with its parent: its pages may name the files beside it."""
    words = [word for value in settings.values() for word in value.split()]
    paths = [Path(urlsplit(word).path).parent if word.startswith("file:") else Path(word) for word in words]
    return sorted({path for path in paths if path.is_absolute() and path.exists()})
