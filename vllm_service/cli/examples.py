"""Shows and writes the files that travel with the program: example configuration, scenarios, traces."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from vllm_service.cli.command import Command
from vllm_service.data import Kind, shipped
from vllm_service.errors import ConfigurationError

CONFIGURATION = ("providers", "models")


def run(options: argparse.Namespace) -> int:
    """Returns 0. Raises ConfigurationError for a name that is not known and for a file that is in the way."""
    code: int = options.do(options)
    return code


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="every file: kind, name, path")
    listing.set_defaults(do=_list)
    showing = actions.add_parser("show", help="write one file to standard output")
    showing.add_argument("name", metavar="NAME", help="a name of `list`")
    showing.set_defaults(do=_show)
    writing = actions.add_parser("write", help="copy files, to be edited; by default providers.yaml and models.yaml")
    writing.add_argument("names", metavar="NAME", nargs="*", default=list(CONFIGURATION), help="names of `list`")
    writing.add_argument("--directory", type=Path, default=Path(), help="where to (default: here)")
    writing.add_argument("--force", action="store_true", help="replace files that are there")
    writing.set_defaults(do=_write)


def _list(options: argparse.Namespace) -> int:
    for kind in Kind:
        for name, path in shipped(kind).items():
            sys.stdout.write(f"{kind.name.lower():9} {name:18} {path}\n")
    return 0


def _show(options: argparse.Namespace) -> int:
    sys.stdout.flush()
    sys.stdout.buffer.write(_file(options.name).read_bytes())
    return 0


def _write(options: argparse.Namespace) -> int:
    """Nothing is written if one of the files is there already."""
    copies = {path: options.directory / path.name for path in (_file(name) for name in options.names)}
    present = [str(target) for target in copies.values() if target.exists()]
    if present and not options.force:
        raise ConfigurationError(f"{', '.join(present)}: exists already; move it away, or replace it with --force")
    try:
        options.directory.mkdir(parents=True, exist_ok=True)
        for source, target in copies.items():
            shutil.copyfile(source, target)
            sys.stdout.write(f"{target}\n")
    except OSError as error:
        raise ConfigurationError(f"{options.directory}: cannot be written: {error}") from None
    return 0


def _file(name: str) -> Path:
    every = {name: path for kind in Kind for name, path in shipped(kind).items()}
    if name not in every:
        raise ConfigurationError(f"There is no shipped file {name!r}. Shipped: {', '.join(every)}.")
    return every[name]


COMMAND = Command(
    "Shows and writes the files that travel with the program: example configuration, scenarios, traces.",
    _add_arguments,
    run,
)
