"""Reads a Dockerfile of this repository, as far as the tests of its rules need."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class Dockerfile:
    """text: as written. code: without comments, which go before lines are joined, as Docker does it."""

    def __init__(self, name: str) -> None:
        self.text = (ROOT / name).read_text(encoding="utf-8")
        lines = [line for line in self.text.splitlines() if not line.startswith("#")]
        self.code = "\n".join(lines).replace("\\\n", " ")

    def instructions(self, name: str) -> list[str]:
        """What stands after each of these."""
        return [line.partition(" ")[2].strip() for line in self.code.splitlines() if line.startswith(name + " ")]

    def variables(self) -> dict[str, str]:
        """That it sets."""
        return dict(pair.split("=", 1) for line in self.instructions("ENV") for pair in line.split())

    def secrets(self) -> list[str]:
        """Arguments and variables whose names are those of secrets, or of addresses that hold some."""
        named = " ".join(self.instructions("ARG") + self.instructions("ENV"))
        return re.findall(r"\w*(?:TOKEN|SECRET|PASSWORD|API_KEY|PEPPER|_URL)\w*", named, flags=re.IGNORECASE)

    def without_hashes(self) -> list[str]:
        """Its installations that would take another file of the same name and version."""
        installed = re.findall(r"pip install[^&]*", self.code)
        return [command for command in installed if "--require-hashes" not in command]

    def mounted(self) -> list[str]:
        """Paths of the repository that a step reads without a copy; podman 4 does not look into them for its cache."""
        return re.findall(r"type=bind,source=([^,]+)", self.code)

    def taken(self) -> list[str]:
        """Paths of the repository that are copied or mounted; each exists and passes .dockerignore."""
        copied = [word.rstrip("/") for line in self.instructions("COPY") for word in line.split()[:-1]]
        ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        allowed = [line.removeprefix("!").rstrip("/") for line in ignore if line[:1] == "!"]
        for path in [*copied, *self.mounted()]:
            assert (ROOT / path).exists(), path
            assert any(fnmatch.fnmatch(path, name) or path.startswith(name + "/") for name in allowed), path
        return [*copied, *self.mounted()]
