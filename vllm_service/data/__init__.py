"""The files that ship with the package: example configuration, scenarios and traces, each with a short name."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from vllm_service.errors import ConfigurationError

FOLDER = Path(__file__).resolve().parent


class Kind(StrEnum):
    """The kinds of shipped files; each value is a directory here."""

    EXAMPLE = "examples"
    SCENARIO = "scenarios"
    TRACE = "traces"


def shipped(kind: Kind) -> dict[str, Path]:
    """Returns the files of one kind by their names, which are without suffix."""
    files = sorted(path for path in (FOLDER / kind).iterdir() if path.is_file())
    return {path.name.partition(".")[0]: path for path in files}


def path_of(kind: Kind, name: str) -> Path:
    """Returns the file at this path, else the shipped file of this name.

    Raises ConfigurationError, with the shipped names, if neither exists.
    """
    given = Path(name)
    if given.is_file():
        return given
    known = shipped(kind)
    if name in known:
        return known[name]
    raise ConfigurationError(
        f"There is no file {name}, and no shipped {kind.name.lower()} of that name. Shipped: {', '.join(known)}."
    )
