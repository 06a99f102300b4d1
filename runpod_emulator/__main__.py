"""`python -m runpod_emulator --worker COMMAND --max-workers 2`: a local RunPod that runs until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from functools import partial
from pathlib import Path
from typing import get_args

from rich.console import Console

from runpod_emulator.api.rest.quotas import REST_QUOTAS
from runpod_emulator.billing.table import bill_table
from runpod_emulator.emulator import Emulator
from runpod_emulator.errors import CannotListen
from runpod_emulator.hosted import command as hosted_command
from runpod_emulator.hosted import read_config
from runpod_emulator.line_writer import is_read, never_wait_for_stderr, open_closed_streams
from runpod_emulator.settings import NO_RATE_LIMITS, RATE_LIMITS, EndpointSettings, EndpointType, Scaling
from runpod_emulator.workers.fleet import WorkerCommand

#: 128 + 13, what a shell reports for a program that SIGPIPE ends, as `head` causes it.
OUTPUT_CLOSED = 141


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs until SIGINT or SIGTERM, then stops the workers and prints the bill. Exits with 2 for wrong arguments.

    Raises CannotListen.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["hosted"]:
        hosted_command.main(arguments[1:])
        return
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        emulator = _emulator(options)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    never_wait_for_stderr()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    asyncio.run(serve(emulator, Console()))


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs main and returns the exit code: 0, 1 where it cannot listen, 141 where the output's reader ended first."""
    open_closed_streams()
    try:
        try:
            main(arguments)
        finally:
            # What is still buffered would otherwise fail when the interpreter ends, outside of this function.
            sys.stdout.flush()
    except CannotListen as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except BrokenPipeError:
        # The interpreter flushes once more at its end: into the null device, where nothing can fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OUTPUT_CLOSED
    except SystemExit as end:
        # Rich makes a SystemExit(1) of a broken pipe, and has put the null device under standard output.
        if isinstance(end.__context__, BrokenPipeError):
            return OUTPUT_CLOSED
        raise
    return 0


async def serve(emulator: Emulator, console: Console) -> None:
    """Runs one emulator: prints its addresses, waits for a signal, prints its bills."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with emulator:
        console.print(f"RunPod API     {emulator.url}", soft_wrap=True)
        openai_url = f"{emulator.balanced_url}/v1" if emulator.settings.is_balanced else emulator.openai_url
        console.print(f"OpenAI base    {openai_url}", soft_wrap=True)
        console.print(f"REST v2        {emulator.origin}/v2/serverless", soft_wrap=True)
        for name in emulator.hosted.providers:
            console.print(f"Hosted         {emulator.hosted_url(name)}", soft_wrap=True)
        if not emulator.starts_workers:
            console.print("Start a worker with these environment variables to connect it:")
            for name, value in emulator.worker_environment().items():
                console.print(f"  {name}={shlex.quote(value)}", soft_wrap=True, highlight=False)
        await stop.wait()
        if is_read(sys.stdout):
            console.print("stopping the workers")
    if is_read(sys.stdout):
        for endpoint_id, bill in emulator.account.bills().items():
            console.print(bill_table(endpoint_id, bill))


def _parser() -> argparse.ArgumentParser:
    default = EndpointSettings()
    parser = argparse.ArgumentParser(
        prog="python -m runpod_emulator",
        description="Runs a local RunPod until Ctrl-C, then prints the bill.",
        epilog="`python -m runpod_emulator hosted --help`: hosted providers alone.",
    )
    workers = parser.add_mutually_exclusive_group(required=True)
    workers.add_argument("--worker", metavar="COMMAND", help="start workers with this command")
    workers.add_argument(
        "--external-workers", action="store_true", help="start no workers; print the environment that connects one"
    )
    parser.add_argument("--endpoint-id", default=default.endpoint_id, metavar="ID", help="(default: %(default)s)")
    parser.add_argument("--host", default=default.host, help="the address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes any free port (default: %(default)s)")
    parser.add_argument("--api-key", metavar="KEY", help="the key that clients must send (default: none)")
    _add_scaling(parser, default)
    parser.add_argument(
        "--execution-timeout",
        type=float,
        default=default.execution_timeout_seconds,
        metavar="SECONDS",
        help="how long a job may run (default: %(default)s)",
    )
    parser.add_argument(
        "--usd-per-second",
        default=str(default.usd_per_second),
        metavar="USD",
        help="the price of a worker's second (default: %(default)s)",
    )
    parser.add_argument("--no-rate-limits", action="store_true", help="do not limit requests as RunPod does")
    parser.add_argument(
        "--stock",
        action="append",
        default=[],
        metavar="POOL=N",
        help="how many workers a GPU pool or type can hold; may be repeated (default: any number)",
    )
    parser.add_argument(
        "--management-v1", action="store_true", help="serve version 1 of the REST API too, which is 410 otherwise"
    )
    parser.add_argument(
        "--worker-logs", type=Path, metavar="FOLDER", help="write one log file per worker instead of to this terminal"
    )
    parser.add_argument(
        "--hosted", type=Path, metavar="FILE", help="serve these hosted providers too (JSON, see docs/emulator.md)"
    )
    return parser


def _add_scaling(parser: argparse.ArgumentParser, default: EndpointSettings) -> None:
    workers = partial(parser.add_argument, type=int, metavar="N")
    seconds = partial(parser.add_argument, type=float, metavar="SECONDS")
    parser.add_argument(
        "--type",
        choices=[kind.replace("_", "-") for kind in get_args(EndpointType)],
        default="queue",
        help="how requests reach workers; a load-balancer sends HTTP to the PORT of each (default: %(default)s)",
    )
    workers("--min-workers", default=default.min_workers, help="workers that always run (default: %(default)s)")
    workers("--max-workers", default=default.max_workers, help="the most workers at once (default: %(default)s)")
    parser.add_argument(
        "--scaling",
        choices=get_args(Scaling),
        help="start workers by how long jobs wait, or by how many there are (default: queue_delay; a load balancer has "
        "request_count only)",
    )
    seconds(
        "--queue-delay",
        default=default.queue_delay_seconds,
        help="with queue_delay: the wait that starts one more worker (default: %(default)s)",
    )
    workers(
        "--requests-per-worker",
        default=default.requests_per_worker,
        help="with request_count: jobs for which one worker is started (default: %(default)s)",
    )
    seconds(
        "--idle-timeout",
        default=default.idle_timeout_seconds,
        help="stop a worker after so long without a job (default: %(default)s)",
    )
    parser.add_argument(
        "--unused-seconds",
        type=float,
        nargs=2,
        default=(default.unused_until_reduced_seconds, default.unused_until_stopped_seconds),
        metavar=("REDUCED", "STOPPED"),
        help="without a request for so long an endpoint gets at most 2 workers, and none (default: 3 and 7 days)",
    )
    seconds(
        "--stop-grace",
        default=default.stop_grace_seconds,
        help="the time between SIGTERM and SIGKILL (default: %(default)s)",
    )


def _emulator(options: argparse.Namespace) -> Emulator:
    emulator = Emulator(
        _settings(options),
        _command(options),
        hosted=read_config(options.hosted) if options.hosted else (),
        rest_quotas={} if options.no_rate_limits else REST_QUOTAS,
        management_v1=options.management_v1,
    )
    for text in options.stock:
        name, _, workers = text.rpartition("=")
        if not (name and workers.isascii() and workers.isdecimal()):
            raise ValueError(f"--stock: expected POOL=WORKERS or 'GPU TYPE=WORKERS', got {text!r}")
        emulator.account.stock.limit(name, int(workers))
    return emulator


def _settings(options: argparse.Namespace) -> EndpointSettings:
    try:
        price = Decimal(options.usd_per_second)
    except InvalidOperation:
        raise ValueError(f"--usd-per-second: expected a number, got {options.usd_per_second!r}") from None
    kind: EndpointType = "load_balancer" if options.type == "load-balancer" else "queue"
    if kind == "load_balancer" and options.external_workers:
        raise ValueError("--type: a load balancer needs --worker: it sends requests only to workers that it starts")
    return EndpointSettings(
        type=kind,
        endpoint_id=options.endpoint_id,
        host=options.host,
        port=options.port,
        api_key=options.api_key,
        min_workers=options.min_workers,
        max_workers=options.max_workers,
        scaling=options.scaling or ("request_count" if kind == "load_balancer" else "queue_delay"),
        queue_delay_seconds=options.queue_delay,
        requests_per_worker=options.requests_per_worker,
        idle_timeout_seconds=options.idle_timeout,
        stop_grace_seconds=options.stop_grace,
        execution_timeout_seconds=options.execution_timeout,
        unused_until_reduced_seconds=options.unused_seconds[0],
        unused_until_stopped_seconds=options.unused_seconds[1],
        usd_per_second=price,
        rate_limits=NO_RATE_LIMITS if options.no_rate_limits else RATE_LIMITS,
    )


def _command(options: argparse.Namespace) -> WorkerCommand | None:
    if options.external_workers:
        return None
    try:
        arguments = tuple(shlex.split(options.worker))
    except ValueError as error:
        raise ValueError(f"--worker: {options.worker!r} cannot be split as a shell would: {error}") from None
    if not arguments:
        raise ValueError("--worker: the command is empty")
    if options.worker_logs is not None:
        options.worker_logs.mkdir(parents=True, exist_ok=True)
    return WorkerCommand(arguments, log_directory=options.worker_logs)


if __name__ == "__main__":
    sys.exit(run())
