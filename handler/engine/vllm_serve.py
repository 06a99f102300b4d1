"""What `vllm serve` does with its flags before it builds the engine, for a vLLM that is embedded.

tests/contract/test_vllm_serve.py lists every step of `vllm serve`, and where it is done.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from handler.engine.arguments import CommandLine
from handler.errors import ConfigurationError

# Flags that name Python files with parsers for tool calls and for reasoning.
PLUGIN_FLAGS = ("tool_parser_plugin", "reasoning_parser_plugin")
# Flags of the server that `vllm serve` puts around engine and app. This worker has its own, or none.
SERVER_FLAGS = frozenset(
    {"api_server_count", "grpc", "grpc_port", "headless", "uds", "uvicorn_log_level", "disable_uvicorn_access_log"}
    | {"disable_access_log_for_endpoints", "h11_max_incomplete_event_size", "h11_max_header_count"}
    | {"ssl_keyfile", "ssl_certfile", "ssl_ca_certs", "ssl_cert_reqs", "ssl_ciphers", "enable_ssl_refresh"}
    | {"data_parallel_multi_port_external_lb", "data_parallel_supervisor_port"}
)


def with_warnings(command: CommandLine) -> CommandLine:
    """Returns the command line with a warning for each flag that only the server of `vllm serve` reads."""
    options = {word.partition("=")[0].removeprefix("--").replace("-", "_"): word for word in command.extra}
    given = options | {setting.flag: setting.source for setting in command.given}
    warnings = (
        f"{given[flag]} has no effect: it is for the server of `vllm serve`, and this worker brings its own"
        for flag in sorted(SERVER_FLAGS & given.keys())
    )
    return replace(command, warnings=(*command.warnings, *warnings))


def prepare(arguments: argparse.Namespace) -> None:
    """Completes and checks the flags as `vllm serve` does; raises whatever vLLM does for wrong ones."""
    from vllm.entrypoints.launchers.cli_args import validate_parsed_serve_args
    from vllm.entrypoints.launchers.launcher import validate_api_server_args
    from vllm.logger import configure_logging_from_args

    arguments.model = arguments.model_tag or arguments.model
    configure_logging_from_args(arguments)
    validate_parsed_serve_args(arguments)
    for flag in PLUGIN_FLAGS:
        if plugin := getattr(arguments, flag):
            _import_plugin(flag, plugin)
    _check_parsers(arguments)
    validate_api_server_args(arguments)


def _import_plugin(flag: str, plugin: str) -> None:
    """Imports the parsers that users bring; raises ConfigurationError where vLLM would only log that it cannot."""
    from vllm.utils.import_utils import import_plugin

    if import_plugin(plugin) is None:
        variable = flag.upper()
        raise ConfigurationError(
            f"{variable}={plugin}: cannot be imported; the log has the error. Name a Python file inside the worker, or "
            "a module that is installed there",
            param=variable,
        )


def _check_parsers(arguments: argparse.Namespace) -> None:
    """Raises ValueError for an unknown parser that vLLM would find only once the model is loaded."""
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    for kind, named, manager in (
        ("tool call parser", arguments.tool_call_parser, ToolParserManager),
        ("reasoning parser", arguments.reasoning_parser, ReasoningParserManager),
    ):
        if named and named not in manager.list_registered():
            raise ValueError(f"{kind} {named!r} not found; there are {', '.join(sorted(manager.list_registered()))}")
