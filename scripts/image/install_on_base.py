"""Installs the worker's lock on top of a base image without changing the base's packages. Run by worker.Dockerfile.

vLLM's makers test the base as a whole, so its torch, CUDA libraries and vLLM stay as they are. Of the lock, only the
packages that the base lacks are installed, without dependencies. A package that is then still missing or too old would
fail at a cold start, which is billed; here it fails the build, by name.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib import invalidate_caches
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

#: Versions by canonical name.
Packages = Mapping[str, str]


def main(arguments: Sequence[str]) -> int:
    """Runs `install_on_base.py PYPROJECT LOCK OVERRIDES`. Returns 1, and prints why, if the image would not work."""
    pyproject, lock, overrides = (Path(argument) for argument in arguments)
    extras = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    base = installed()
    if problem := wrong_vllm(base, extras):
        return _fail([problem])
    locked = lock.read_text(encoding="utf-8")
    added = lacking(base, pins(locked))
    if added:
        _install(with_hashes(locked, added))
    after = installed()
    required = [*extras["worker"], *(needed for name in added for needed in _requires(name))]
    exempt = {_name(line) for line in overrides.read_text(encoding="utf-8").splitlines() if _is_pin(line)}
    return _fail([*changes(base, after), *unmet(required, after, exempt)])


def installed() -> dict[str, str]:
    """Returns the installed distributions with their versions."""
    invalidate_caches()  # pip has just installed some, in another process
    return {canonicalize_name(found.name): found.version for found in distributions()}


def pins(lock: str) -> dict[str, str]:
    """Returns the `name==version` lines of a lock file as a mapping. Hashes are on lines of their own."""
    lines = (line.removesuffix("\\").strip().partition("==") for line in lock.splitlines() if _is_pin(line))
    return {canonicalize_name(name.partition("[")[0]): version for name, _, version in lines}


def with_hashes(lock: str, names: Iterable[str]) -> str:
    """Returns the part of a lock file that is about these packages."""
    wanted, kept, is_wanted = frozenset(names), [], False
    for line in lock.splitlines():
        if _is_pin(line):
            is_wanted = next(iter(pins(line))) in wanted
        if is_wanted:
            kept.append(line)
    return "".join(f"{line}\n" for line in kept)


def _install(lock: str) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".lock", encoding="utf-8") as file:
        file.write(lock)
        file.flush()
        command = (sys.executable, "-m", "pip", "install", "--no-deps", "--require-hashes", "-r", file.name)
        subprocess.run(command, check=True)


def lacking(base: Packages, pinned: Packages) -> dict[str, str]:
    """Returns the pins of packages that the base has in no version at all."""
    return {name: version for name, version in pinned.items() if name not in base}


def wrong_vllm(base: Packages, extras: Mapping[str, Sequence[str]]) -> str | None:
    """Returns what is wrong with the base's vLLM, or None. The worker uses internals of one release only."""
    for pin in (Requirement(line) for extra in ("gpu", "cpu") for line in extras[extra]):
        found = base.get(canonicalize_name(pin.name))
        if found is not None:
            fits = pin.specifier.contains(Version(found).public, prereleases=True)
            return (
                None if fits else f"the base has {pin.name} {found}, this worker needs {pin}: choose another BASE_IMAGE"
            )
    return "the base has no vLLM: choose another BASE_IMAGE"


def changes(before: Packages, after: Packages) -> list[str]:
    """Returns one text for each package of the base whose version has changed."""
    return [
        f"{name} {version} of the base became {after.get(name, 'nothing')}"
        for name, version in before.items()
        if after.get(name) != version
    ]


def unmet(required: Iterable[str], packages: Packages, exempt: Iterable[str] = ()) -> list[str]:
    """Returns one text for each requirement, outside of extras, that the packages do not meet.

    exempt: the names of documented exceptions.
    """
    missing = []
    for requirement in map(Requirement, required):
        name = canonicalize_name(requirement.name)
        if name in exempt or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found = packages.get(name)
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            missing.append(f"{requirement} is needed, the image has {found or 'none'}")
    return sorted(set(missing))


def _requires(name: str) -> list[str]:
    found: Any = next((entry for entry in distributions(name=name)), None)
    return list(found.requires or []) if found else []


def _is_pin(line: str) -> bool:
    return bool(line.strip()) and not line.startswith(("#", " "))


def _name(line: str) -> str:
    return canonicalize_name(Requirement(line).name)


def _fail(problems: Sequence[str]) -> int:
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
