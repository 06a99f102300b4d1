"""The traces that a benchmark replays: those of --trace, of VLLM_SERVICE_TRACES, or the two in the wheel."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from vllm_service.data import Kind, path_of, shipped
from vllm_service.errors import ConfigurationError

VARIABLE = "VLLM_SERVICE_TRACES"


def add_traces(parser: argparse.ArgumentParser) -> None:
    """Adds --trace, which may be repeated; --traces is its old name."""
    parser.add_argument(
        *("--trace", "--traces"),
        dest="traces",
        metavar="NAME|FILE|FOLDER",
        action="append",
        default=[],
        help=f"a trace to replay: a CSV[.gz], a folder of them, or the name of a shipped one; may be repeated "
        f"(default: {VARIABLE}, else all shipped ones)",
    )


def traces(given: Sequence[str], environment: Mapping[str, str] | None = None) -> list[Path]:
    """Returns the files, a folder's in the order of their names. Raises ConfigurationError for a missing one."""
    variables = os.environ if environment is None else environment
    named = variables.get(VARIABLE)
    sources = given or ([named] if named else shipped(Kind.TRACE))
    return [path for source in sources for path in _files(source)]


def traces_of(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[Path]:
    """Returns the requested traces. Ends the program with 2 and a message if one is missing."""
    try:
        return traces(options.traces)
    except ConfigurationError as error:
        parser.error(error.message)


def _files(source: str) -> list[Path]:
    folder = Path(source)
    if not folder.is_dir():
        return [path_of(Kind.TRACE, source)]
    files = sorted(folder.glob("*.csv*"))
    if not files:
        raise ConfigurationError(f"There is no trace (*.csv, *.csv.gz) in {folder}: name another folder, or a file.")
    return files
