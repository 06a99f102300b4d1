"""What `vllm serve` does with its flags before it builds the engine, for a vLLM that is embedded.

tests/contract/test_vllm_serve.py lists every step of `vllm serve`, and where it is done.
"""

from __future__ import annotations

import argparse

from handler.errors import ConfigurationError

# Flags that name Python files with parsers for tool calls and for reasoning.
PLUGIN_FLAGS = ("tool_parser_plugin", "reasoning_parser_plugin")


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
