"""Does with the flags what `vllm serve` does before it builds the engine, for a vLLM that is embedded.

tests/contract/test_vllm_serve.py lists every step of `vllm serve`, and where it is done.
"""

from __future__ import annotations

import argparse
import logging

from handler.engine import chat_template
from handler.errors import ConfigurationError

logger = logging.getLogger(__name__)

# Flags that name Python files with parsers for tool calls and for reasoning.
PLUGIN_FLAGS = ("tool_parser_plugin", "reasoning_parser_plugin")
# Flags whose JSON must be an object, which vLLM's parser does not check.
OBJECT_FLAGS = (
    "default_chat_template_kwargs",
    "default_mm_loras",
    "diffusion_config",
    "limit_mm_per_prompt",
    "media_io_kwargs",
    "mm_processor_kwargs",
    "model_class_overrides",
    "override_generation_config",
    "speculative_config",
    "watermark_config",
)


def prepare(arguments: argparse.Namespace) -> None:
    """Completes and checks the flags as `vllm serve` does; raises whatever vLLM does for wrong ones."""
    from vllm.entrypoints.launchers.cli_args import validate_parsed_serve_args
    from vllm.entrypoints.launchers.launcher import validate_api_server_args
    from vllm.logger import configure_logging_from_args

    arguments.model = arguments.model_tag or arguments.model
    _check_objects(arguments)
    chat_template.check_text(arguments.chat_template)
    configure_logging_from_args(arguments)
    validate_parsed_serve_args(arguments)
    for flag in PLUGIN_FLAGS:
        if plugin := getattr(arguments, flag):
            _import_plugin(flag, plugin)
    _check_parsers(arguments)
    validate_api_server_args(arguments)


def _check_objects(arguments: argparse.Namespace) -> None:
    """Raises ValueError for JSON of another kind, which vLLM would find without a name for it, or while it serves."""
    for flag in OBJECT_FLAGS:
        value = getattr(arguments, flag)
        if value is not None and not isinstance(value, dict):
            raise ValueError(
                f'--{flag.replace("_", "-")} is a JSON object, as in {{"a": 1}}; got {type(value).__name__}'
            )


def _import_plugin(flag: str, plugin: str) -> None:
    """Imports the parsers that users bring; raises ConfigurationError where vLLM would only log that it cannot."""
    from vllm.utils.import_utils import import_plugin

    try:
        imported = import_plugin(plugin)
    except (Exception, SystemExit) as error:  # vLLM catches only what a file raises, not a module, and no exit
        logger.exception("the plugin %s cannot be imported", plugin, exc_info=error)
        imported = None
    if imported is None:
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
