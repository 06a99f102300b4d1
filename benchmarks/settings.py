"""Which traces a benchmark replays: those of --trace, of VLLM_SERVICE_TRACES, or the two that travel in the wheel."""

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
        help=f"CSV[.gz], a folder of such files, or a shipped one; may be repeated ({VARIABLE}, else those)",
    )


def traces(given: Sequence[str], environment: Mapping[str, str] | None = None) -> list[Path]:
    """Returns the files, a folder's in the order of their names. Raises ConfigurationError for what is not there."""
    variables = os.environ if environment is None else environment
    named = variables.get(VARIABLE)
    sources = given or ([named] if named else shipped(Kind.TRACE))
    return [path for source in sources for path in _files(source)]


def traces_of(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[Path]:
    """Returns the traces that were asked for; ends the program with 2 and a line where there are none."""
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
        raise ConfigurationError(f"There is no trace (*.csv, *.csv.gz) in {folder}.")
    return files
