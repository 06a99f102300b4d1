"""`python -m runpod_emulator --worker "python handler.py" --max-workers 2`: a local RunPod until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import logging
import shlex
import signal
import sys
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import get_args

from rich.console import Console

from runpod_emulator.billing.table import bill_table
from runpod_emulator.emulator import Emulator
from runpod_emulator.hosted import HostedSettings, read_config
from runpod_emulator.hosted import command as hosted_command
from runpod_emulator.settings import NO_RATE_LIMITS, RATE_LIMITS, EndpointSettings, Scaling
from runpod_emulator.workers.fleet import WorkerCommand


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs until SIGINT or SIGTERM, then stops the workers and prints the bill. Exits 2 for wrong arguments."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["hosted"]:
        return hosted_command.main(arguments[1:])
    parser = _parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        settings = _settings(options)
        hosted = read_config(options.hosted) if options.hosted else ()
        asyncio.run(serve(settings, _command(options), Console(), hosted))
    except (ValueError, OSError) as error:
        parser.error(str(error))


async def serve(
    settings: EndpointSettings,
    command: WorkerCommand | None,
    console: Console,
    hosted: Sequence[HostedSettings] = (),
) -> None:
    """One emulator, from its address to its bill."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    emulator = Emulator(settings, command, hosted=hosted)
    async with emulator:
        console.print(
            f"RunPod API     {emulator.url}", f"OpenAI base    {emulator.openai_url}", sep="\n", soft_wrap=True
        )
        for name in emulator.hosted.providers:
            console.print(f"Hosted         {emulator.hosted_url(name)}", soft_wrap=True)
        if command is None:
            console.print("A worker started with these variables takes its jobs from here:")
            for name, value in emulator.worker_environment().items():
                console.print(f"  {name}={shlex.quote(value)}", soft_wrap=True, highlight=False)
        await stop.wait()
        console.print("stopping the workers")
    console.print(bill_table(emulator.bill()))


def _parser() -> argparse.ArgumentParser:
    default = EndpointSettings()
    parser = argparse.ArgumentParser(prog="python -m runpod_emulator", description=__doc__)
    workers = parser.add_mutually_exclusive_group(required=True)
    workers.add_argument("--worker", metavar="COMMAND", help="the command that starts a worker")
    workers.add_argument("--external-workers", action="store_true", help="start none: print the variables for one")
    parser.add_argument("--endpoint-id", default=default.endpoint_id)
    parser.add_argument("--host", default=default.host)
    parser.add_argument("--port", type=int, default=8000, help="0 takes any free one (default: 8000)")
    parser.add_argument("--api-key", help="ask clients for this key")
    parser.add_argument("--min-workers", type=int, default=default.min_workers, help="active workers (default: 0)")
    parser.add_argument("--max-workers", type=int, default=default.max_workers, help="(default: 3)")
    parser.add_argument("--scaling", choices=get_args(Scaling), default=default.scaling)
    parser.add_argument("--queue-delay", type=float, default=default.queue_delay_seconds, metavar="SECONDS")
    parser.add_argument("--requests-per-worker", type=int, default=default.requests_per_worker, metavar="N")
    parser.add_argument("--idle-timeout", type=float, default=default.idle_timeout_seconds, metavar="SECONDS")
    parser.add_argument("--stop-grace", type=float, default=default.stop_grace_seconds, metavar="SECONDS")
    parser.add_argument("--execution-timeout", type=float, default=default.execution_timeout_seconds, metavar="SECONDS")
    parser.add_argument("--usd-per-second", default=str(default.usd_per_second), metavar="USD")
    parser.add_argument("--no-rate-limits", action="store_true")
    parser.add_argument(
        "--worker-logs", type=Path, metavar="FOLDER", help="one file per worker instead of this terminal"
    )
    parser.add_argument("--hosted", type=Path, metavar="FILE", help="hosted providers on the same address, in JSON")
    return parser


def _settings(options: argparse.Namespace) -> EndpointSettings:
    try:
        price = Decimal(options.usd_per_second)
    except InvalidOperation:
        raise ValueError(f"--usd-per-second: expected a number, got {options.usd_per_second!r}") from None
    return EndpointSettings(
        endpoint_id=options.endpoint_id,
        host=options.host,
        port=options.port,
        api_key=options.api_key,
        min_workers=options.min_workers,
        max_workers=options.max_workers,
        scaling=options.scaling,
        queue_delay_seconds=options.queue_delay,
        requests_per_worker=options.requests_per_worker,
        idle_timeout_seconds=options.idle_timeout,
        stop_grace_seconds=options.stop_grace,
        execution_timeout_seconds=options.execution_timeout,
        usd_per_second=price,
        rate_limits=NO_RATE_LIMITS if options.no_rate_limits else RATE_LIMITS,
    )


def _command(options: argparse.Namespace) -> WorkerCommand | None:
    if options.external_workers:
        return None
    arguments = tuple(shlex.split(options.worker))
    if not arguments:
        raise ValueError("--worker: the command is empty")
    return WorkerCommand(arguments, log_directory=options.worker_logs)


if __name__ == "__main__":
    main()
