"""`examples`: lists, shows and writes the files that come with the program."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from vllm_service.cli.command import Command
from vllm_service.cli.json_option import add_json, write_json
from vllm_service.data import Kind, shipped
from vllm_service.errors import ConfigurationError

#: The files that `write` writes by default.
CONFIGURATION = ("providers", "models")


def run(options: argparse.Namespace) -> int:
    """Returns 0. Raises ConfigurationError for an unknown name, and for a file that exists already."""
    code: int = options.do(options)
    return code


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="list every file: kind, name, path")
    add_json(listing)
    listing.set_defaults(do=_list)
    showing = actions.add_parser("show", help="print one file")
    showing.add_argument("name", metavar="NAME", help="a name that `list` shows")
    showing.set_defaults(do=_show)
    writing = actions.add_parser("write", help="copy files, to be edited")
    writing.add_argument(
        "names",
        metavar="NAME",
        nargs="*",
        default=list(CONFIGURATION),
        help="names that `list` shows (default: providers models)",
    )
    writing.add_argument(
        "--directory", type=Path, default=Path(), help="where to write (default: the current directory)"
    )
    writing.add_argument("--force", action="store_true", help="replace existing files")
    writing.set_defaults(do=_write)


def _list(options: argparse.Namespace) -> int:
    files = [(kind.name.lower(), name, path) for kind in Kind for name, path in shipped(kind).items()]
    if options.json:
        write_json({"files": [{"kind": kind, "name": name, "path": str(path)} for kind, name, path in files]})
        return 0
    for kind, name, path in files:
        sys.stdout.write(f"{kind:9} {name:18} {path}\n")
    return 0


def _show(options: argparse.Namespace) -> int:
    sys.stdout.flush()
    sys.stdout.buffer.write(_file(options.name).read_bytes())
    return 0


def _write(options: argparse.Namespace) -> int:
    """Copies the files, or none of them if one exists already."""
    copies = {path: options.directory / path.name for path in (_file(name) for name in options.names)}
    present = [str(target) for target in copies.values() if target.exists()]
    if present and not options.force:
        raise ConfigurationError(f"{', '.join(present)}: already there; move it away, or replace it with --force")
    try:
        options.directory.mkdir(parents=True, exist_ok=True)
        for source, target in copies.items():
            shutil.copyfile(source, target)
            sys.stdout.write(f"{target}\n")
    except OSError as error:
        raise ConfigurationError(
            f"{options.directory}: cannot be written: {error.strerror}; name another --directory"
        ) from None
    return 0


def _file(name: str) -> Path:
    every = {name: path for kind in Kind for name, path in shipped(kind).items()}
    if name not in every:
        raise ConfigurationError(f"There is no shipped file {name!r}. The shipped files are {', '.join(every)}.")
    return every[name]


COMMAND = Command(
    "Lists, shows and writes the files that come with the program: example configuration, scenarios, traces.",
    _add_arguments,
    run,
)
