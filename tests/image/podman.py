"""podman as these tests use it: configured for hosts that are containers themselves, all of it by files of our own."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

CONTAINERS_CONF = """[engine]
runtime = "runc"
[containers]
default_ulimits = ["nofile=1024:4096", "nproc=1024:4096"]
"""


@dataclass(frozen=True)
class Podman:
    """Runs podman commands. `build_options` say where packages come from (`package_source`)."""

    directory: Path
    build_options: tuple[str, ...] = field(default=(), repr=False)

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """One command to its end, its output captured; raises CalledProcessError with stderr shown."""
        finished = subprocess.run(
            ["podman", *arguments], env=self.environment, capture_output=True, text=True, check=False
        )
        if check and finished.returncode:
            raise AssertionError(f"podman {arguments[0]} ended with {finished.returncode}:\n{finished.stderr[-8000:]}")
        return finished

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """One command that goes on; its output goes where this process's goes."""
        return subprocess.Popen(["podman", *arguments], env=self.environment, stdin=subprocess.DEVNULL)

    def start_heard(self, *arguments: str) -> subprocess.Popen[str]:
        """One command that goes on; what it writes to stdout is read from the process, by lines."""
        return subprocess.Popen(
            ["podman", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )

    def build(self, file: Path, context: Path, tag: str, *options: str) -> None:
        """Docker's format, since OCI's has no HEALTHCHECK; the host's network, since package mirrors may be its own."""
        self.run(
            *("build", "--format", "docker", "--network", "host", "--file", str(file), "--tag", tag),
            *(*self.build_options, *options, str(context)),
        )

    def inspect(self, image: str, template: str) -> str:
        """A field of the image, by Go template."""
        return self.run("image", "inspect", "--format", template, image).stdout.strip()

    @property
    def environment(self) -> dict[str, str]:
        """This process's, with our containers.conf."""
        path = self.directory / "containers.conf"
        path.write_text(CONTAINERS_CONF, encoding="utf-8")
        return dict(os.environ) | {"CONTAINERS_CONF": str(path)}
