"""`python -m handler config`: the vLLM flags that would be used, and the variable that each one comes from."""

from __future__ import annotations

import json
from typing import TextIO

from rich.console import Console
from rich.table import Table

from handler.engine.arguments import SECRET, CommandLine
from handler.settings import WorkerSettings


def report(command: CommandLine, settings: WorkerSettings, stream: TextIO, *, as_json: bool) -> None:
    """Writes the report. Values of flags whose names mark them as secret are masked."""
    worker = {
        "max_concurrency": settings.max_concurrency,
        "allowed_paths": list(settings.allowed_paths),
        "max_input_bytes": settings.max_input_bytes,
        "log_level": settings.log_level,
    }
    document = {
        "vllm": {setting.flag: {"value": setting.masked(), "from": setting.source} for setting in command.settings},
        "extra_args": mask_extra(command.extra),
        "worker": worker,
        "warnings": list(command.warnings),
    }
    if as_json:
        stream.write(json.dumps(document, indent=2) + "\n")
        return
    table = Table("vLLM flag", "value", "from", title="What the worker would serve")
    for setting in command.settings:
        table.add_row(f"--{setting.flag.replace('_', '-')}", setting.masked(), setting.source)
    for argument in mask_extra(command.extra):
        table.add_row(argument, "", "VLLM_EXTRA_ARGS")
    for name, value in worker.items():
        table.add_row(f"worker: {name}", str(value), name.upper())
    console = Console(file=stream)
    console.print(table)
    for warning in command.warnings:
        console.print(f"warning: {warning}", markup=False, style="yellow")


def mask_extra(arguments: tuple[str, ...]) -> list[str]:
    """Returns the extra arguments with the values of secret options masked, also where such a value stands alone."""
    masked: list[str] = []
    secret_follows = False
    for argument in arguments:
        option, equals, _ = argument.partition("=")
        is_secret = option.startswith("--") and bool(SECRET.search(option.removeprefix("--").replace("-", "_")))
        if secret_follows and not argument.startswith("--"):
            masked.append("********")
        else:
            masked.append(f"{option}=********" if is_secret and equals else argument)
        secret_follows = is_secret and not equals
    return masked
