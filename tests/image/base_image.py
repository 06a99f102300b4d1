"""Bases where no image can be pulled: Debian packages with Python; for the worker, vLLM for CPUs by our lock."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Mapping
from pathlib import Path

from scripts.image.install_on_base import pins
from tests.image.podman import Podman

ROOT = Path(__file__).resolve().parents[2]
DEBIAN, CPU_BASE = "localhost/worker-test-debian", "localhost/worker-test-cpu-base"
PYTHON_BASE = "localhost/service-test-base"
SUITE = "bookworm"  # its Python is 3.11, as the lock's
PACKAGES = ("ca-certificates", "libnuma1", "libgomp1", "python3", "python3-pip", "libpython3.11")
# The base has this one in another version than the worker's lock: it has to stay.
OLDER_IN_BASE = ("six", "1.16.0")


def make_cpu_base(podman: Podman, directory: Path) -> str:
    """Builds what has not been built before; returns the image's name."""
    _make_debian(podman, directory)
    context = directory / "cpu-base"
    context.mkdir()
    (context / "torch.lock").write_text(_plain(pins(_text("torch-cpu.lock"))))
    (context / "base.lock").write_text(_plain(base_pins()))
    podman.build(ROOT / "tests" / "image" / "cpu-base.Dockerfile", context, CPU_BASE)
    return CPU_BASE


def make_python_base(podman: Podman, directory: Path) -> str:
    """Stands in for python:3.11-slim; returns the image's name."""
    _make_debian(podman, directory)
    context = directory / "python-base"
    context.mkdir()
    podman.build(ROOT / "tests" / "image" / "python-base.Dockerfile", context, PYTHON_BASE)
    return PYTHON_BASE


def base_pins() -> dict[str, str]:
    """The locked packages without those that worker.Dockerfile has to add."""
    added = pins(_text("worker-gpu.lock"))
    base = {name: version for name, version in pins(_text("dev.lock")).items() if name not in added}
    return base | dict([OLDER_IN_BASE])


def _make_debian(podman: Podman, directory: Path) -> None:
    tag = f"{DEBIAN}:{hashlib.sha256(' '.join((SUITE, *PACKAGES)).encode()).hexdigest()[:12]}"
    if podman.run("image", "exists", tag, check=False).returncode:
        archive = directory / "debian.tar"
        subprocess.run(
            ["mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(archive)], check=True
        )
        podman.run("import", str(archive), tag)
        archive.unlink()
    podman.run("tag", tag, f"{DEBIAN}:latest")


def _plain(pinned: Mapping[str, str]) -> str:
    """Without hashes, which one package of another version would need too."""
    return "".join(f"{name}=={version}\n" for name, version in pinned.items())


def _text(lock: str) -> str:
    return (ROOT / "requirements" / lock).read_text(encoding="utf-8")
