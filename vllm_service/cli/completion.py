"""`completion`: a script by which a shell completes commands, options and the names of shipped files."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import shtab

from vllm_service.cli.command import Command
from vllm_service.cli.parser import parser_of
from vllm_service.data import Kind, shipped

SHELLS = ("bash", "fish", "zsh")
# Arguments that take a shipped name or a file.
_NAMES_OF = {"scenario": (Kind.SCENARIO,), "trace": (Kind.TRACE,), "name": tuple(Kind), "names": tuple(Kind)}
# Arguments that take a directory.
_DIRECTORIES = ("data_dir", "directory")


def run(options: argparse.Namespace) -> int:
    """Prints the script; returns 0."""
    sys.stdout.write(script(options.shell))
    return 0


def script(shell: str) -> str:
    """Returns the script. It imports every verb; the client's extra is enough for that."""
    parser = parser_of()
    for action in _actions(parser):
        completed = _completed(action)
        if completed is not None:
            # shtab looks for this attribute, which argparse's actions do not declare.
            setattr(action, "complete", completed)  # noqa: B010
    text: str = shtab.complete(parser, shell)
    return text


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yields every argument of the parser and its subparsers."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from _actions(child)
        else:
            yield action


def _completed(action: argparse.Action) -> object:
    """Returns shtab's description of the argument's values; None where shtab finds them itself."""
    if action.dest in _NAMES_OF:
        names = [name for kind in _NAMES_OF[action.dest] for name in shipped(kind)]
        return _names_or_files(f"_vllm_service_{action.dest}", names)
    if action.dest in _DIRECTORIES:
        return shtab.DIRECTORY
    return shtab.FILE if action.type is Path else None


def _names_or_files(function: str, names: Sequence[str]) -> dict[str, object]:
    """Returns a completion by names and by files, a combination that shtab lacks."""
    words = shlex.join(names)
    return {
        "bash": function,
        "zsh": function,
        "fish": f"{words} (__fish_complete_path (commandline -ct))",
        "preamble": {
            "bash": f'{function}() {{\n  compgen -W "{words}" -- "$1"\n  compgen -f -- "$1"\n}}\n',
            "zsh": f"{function}() {{\n  _alternative 'names:shipped:({words})' 'files:file:_files'\n}}\n",
        },
    }


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="the shell that the script is for")


COMMAND = Command(
    'Prints a completion script. In bash, run: eval "$(vllm-service completion bash)". In zsh, the same with zsh, '
    "after compinit. In fish: vllm-service completion fish | source.",
    _add_arguments,
    run,
)
