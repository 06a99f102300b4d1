"""The worker's command line: a test job, the local API, the configuration report, or RunPod's queue."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence

from handler import logs, metrics
from handler.door.flags import EVERY_ADDRESS, Door
from handler.engine.embedded import EmbeddedEngine
from handler.engine.protocol import Engine
from handler.engine.remote import RemoteEngine
from handler.engine.vllm_parts import read_command_line, serve_parser
from handler.errors import ConfigurationError, WorkerError
from handler.line_writer import open_closed_streams
from handler.local import config_report, one_job
from handler.metrics import WorkerMetrics
from handler.settings import LOG_LEVELS, ModelSettings, WorkerSettings, export
from handler.start import user
from handler.start.children import end_as_a_spawned_process
from handler.start.timeline import Timeline

logger = logging.getLogger("handler")

EXIT_CONFIGURATION = 2
#: 128 + 13, what a shell reports for a program that SIGPIPE ends.
OUTPUT_CLOSED = 141
# RunPod sends the requests of a load-balancing endpoint to port 80 where PORT is not set (docs/runpod.md).
LOAD_BALANCED_PORT, DEFAULT_HTTP_PORT = 80, 8000
MODEL_COMMANDS = ("download", "verify", "prune")

# By default vLLM logs to stdout and reports its usage to its makers. Both are read when it is imported.
# It also lets one request of 10 KB make 16 million answers, 1,024 prompts with `n` of 16,384 each, and holds all of
# them in memory until the kernel ends the worker. OpenAI's own limit of `n` is 128.
VLLM_ENVIRONMENT = {
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_MAX_N_SEQUENCES": "128",
}
# For runs that a person watches. The worker's own log lines show the progress.
QUIET_ENVIRONMENT = {"VLLM_LOGGING_LEVEL": "ERROR", "TORCH_CPP_LOG_LEVEL": "ERROR"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the worker and returns the exit code.

    0 success, 1 failed job or start, 2 wrong use or configuration, 141 where the reader of the output has left.
    """
    open_closed_streams()
    given = sys.argv[1:] if arguments is None else arguments
    try:
        try:
            return _manage_models(given) if given[:1] and given[0] in MODEL_COMMANDS else _run_worker(given)
        finally:
            # What is still buffered would otherwise fail when the interpreter ends, outside of this function.
            sys.stdout.flush()
    except BrokenPipeError:
        return _output_closed()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # so Rich ends a program whose reader has left
            return _output_closed()
        raise


def _output_closed() -> int:
    # The interpreter flushes once more at its end: into the null device, where nothing can fail.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return OUTPUT_CLOSED


def _run_worker(arguments: Sequence[str]) -> int:
    options = _parse(arguments)
    try:
        settings = WorkerSettings.from_environment()
        logs.set_up(options.rp_log_level or settings.log_level, as_json=settings.logs_json)
        export(VLLM_ENVIRONMENT)
        user.give_up_root(settings.user, settings.written_directories, _listened(settings))
        return _run(options, settings)
    except ConfigurationError as error:
        sys.stderr.write(f"{error.to_json_text()}\n")
        return EXIT_CONFIGURATION


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python handler.py",
        description=__doc__,
        epilog=f"{', '.join(MODEL_COMMANDS)} look after the models on a volume: see download --help",
    )
    parser.add_argument(
        "command", nargs="?", choices=["config"], help="print the configuration and where it comes from"
    )
    parser.add_argument("--json", action="store_true", help="with config: as JSON")
    parser.add_argument(
        "--test_input",
        nargs="?",
        const=one_job.DEFAULT_TEST_INPUT,
        metavar="JSON|FILE",
        help=f"run one job and exit; without a value, the one in {one_job.DEFAULT_TEST_INPUT}",
    )
    parser.add_argument("--http", action="store_true", help="serve HTTP on PORT, as on a load-balancing endpoint")
    parser.add_argument("--rp_serve_api", action="store_true", help="serve /run, /runsync, /status and /stream locally")
    parser.add_argument("--rp_api_host", default="localhost")
    parser.add_argument("--rp_api_port", type=int, default=8000)
    parser.add_argument("--rp_api_concurrency", type=int, default=1, help="accepted and ignored: one engine serves all")
    parser.add_argument("--rp_log_level", type=str.upper, choices=LOG_LEVELS, help="as LOG_LEVEL in the environment")
    parser.add_argument("--rp_debugger", action="store_true", help="accepted and ignored")
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace, settings: WorkerSettings) -> int:
    if options.command == "config":
        return _print_config(settings, as_json=options.json)
    if options.rp_serve_api:
        return _serve_locally(settings, options.rp_api_host, options.rp_api_port)
    if options.test_input is not None:
        return _run_test_job(settings, options.test_input)
    if options.http or settings.serves_http:
        return _serve_http(settings)
    return _serve_queue(settings) if settings.takes_jobs else _run_test_job(settings, one_job.DEFAULT_TEST_INPUT)


def _manage_models(arguments: Sequence[str]) -> int:
    from handler.engine.models import model_cache
    from handler.model_cache import commands

    try:
        settings = ModelSettings.from_environment()
        logs.set_up("WARNING", as_json=False)
        return commands.run(arguments, model_cache(settings), settings.name, settings.revision)
    except WorkerError as error:
        sys.stderr.write(f"{error.message}\n")
        return EXIT_CONFIGURATION if isinstance(error, ConfigurationError) else 1


def _listened(settings: WorkerSettings) -> list[int]:
    """Returns the ports that the settings name, for a check before anything is bound."""
    port = LOAD_BALANCED_PORT if settings.port is None and settings.serves_http else settings.port
    return [each for each in (port, settings.health_port, settings.metrics_port) if each]


def _print_config(settings: WorkerSettings, *, as_json: bool) -> int:
    export(QUIET_ENVIRONMENT)
    with one_job.stdout_for_the_result() as stream:
        command = read_command_line(settings, serve_parser())
        config_report.report(command, settings, stream, as_json=as_json)
    return 0


def _run_test_job(settings: WorkerSettings, test_input: str) -> int:
    export(QUIET_ENVIRONMENT)
    with one_job.stdout_for_the_result() as stream:
        try:
            job = one_job.load_job(test_input)
            document = asyncio.run(one_job.run_job(_engine(settings), settings, job))
        except WorkerError as error:
            document = error.to_json()
        exit_code = one_job.print_document(document, stream)
    one_job.print_answer(document, sys.stderr)
    return exit_code


def _serve_locally(settings: WorkerSettings, host: str, port: int) -> int:
    from handler.local import api

    logs.never_wait_for_stdout()
    try:
        return asyncio.run(api.serve(_engine(settings), settings, _door(settings), host, port))
    except KeyboardInterrupt:  # while the model was loading
        return 0


def _serve_http(settings: WorkerSettings) -> int:
    from handler.http import mode
    from handler.http.app import PING_PATHS

    logs.never_wait_for_stdout()
    door = _door(settings)
    port = door.port
    if port is None:
        port = LOAD_BALANCED_PORT if settings.serves_http else DEFAULT_HTTP_PORT
        logger.info("PORT is not set: serving on port %d", port)
    if settings.metrics_port is not None:
        metrics.serve(settings.metrics_port)
    serving = mode.serve(
        _engine(settings, load_in_thread=True),
        host=door.host or EVERY_ADDRESS,
        port=port,
        health_port=port if settings.health_port is None else settings.health_port,
        allowed_paths=settings.allowed_paths,
        max_body_bytes=settings.max_body_bytes,
        limits=settings.request_limits,
        drain_seconds=settings.grace_seconds,
        stall_seconds=settings.stall_seconds,
        door=door,
        ping_paths={*PING_PATHS, settings.health_check_path},
    )
    return asyncio.run(serving)


def _door(settings: WorkerSettings) -> Door:
    return Door.read(settings.environment, own_key=settings.vllm_base_url is None)


def _engine(settings: WorkerSettings, *, load_in_thread: bool = False, timeline: Timeline | None = None) -> Engine:
    if settings.vllm_base_url:
        capacity = settings.max_concurrency or RemoteEngine.DEFAULT_CAPACITY
        return RemoteEngine(settings.vllm_base_url, api_key=settings.vllm_api_key, capacity=capacity)
    return EmbeddedEngine(settings, load_in_thread=load_in_thread, timeline=timeline)


def _serve_queue(settings: WorkerSettings) -> int:
    from handler.queue import mode
    from handler.queue.runpod_sdk import SdkPlatform

    logs.never_wait_for_stdout()
    if settings.metrics_port is not None:
        metrics.serve(settings.metrics_port)
    counters = WorkerMetrics(metrics.process_registry())
    timeline = Timeline(settings.start.usd_per_second, counters.phase_took)

    def import_sdk(counters: WorkerMetrics) -> SdkPlatform:
        with timeline.phase("sdk", "importing the runpod SDK"):
            return SdkPlatform(counters)

    engine = _engine(settings, timeline=timeline)
    return mode.serve(engine, settings, metrics=counters, make_platform=import_sdk)


if __name__ == "__main__":  # of `python -m handler`
    # Without this, vLLM's spawned processes would not import this file, and not learn that they end with this one.
    __spec__ = None
    sys.exit(main())
if __name__ == "__mp_main__":
    logs.never_wait_for_stderr()
    logs.never_wait_for_stdout()
    end_as_a_spawned_process()
