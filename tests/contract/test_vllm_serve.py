"""Every step of `vllm serve` is known, and either done when vLLM is embedded or left out for a reason that is named.

A step is a function that vLLM calls around engine and app. A new one, or one that is gone, fails here.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from vllm.entrypoints.cli import main, serve
from vllm.entrypoints.launchers import launcher
from vllm.entrypoints.launchers.api_server import entry
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager

from handler.engine import vllm_parts, vllm_serve
from handler.engine.arguments import flags_of
from handler.errors import ConfigurationError
from handler.settings import WorkerSettings

CHANGED = "`vllm serve` has changed; decide whether handler/engine/vllm_serve.py must do the same: "

OTHER_COMMAND = "belongs to another command than serve"
OWN_PROCESSES = "the worker is one process with one engine; its replicas are the platform's"
OWN_SERVER = "the worker has its own server, signals and log, or none"
IN_CONFIG = "done by vllm_parts.engine_config"
IN_FLAGS = "done by vllm_serve.prepare"
IN_START = "done by vllm_parts.start_llm"
IN_API = "done by vllm_parts.build_api"
PLAIN = "no effect of its own"

STEPS: dict[Callable[..., Any], dict[str, str]] = {
    main.main: {
        "maybe_run_omni": OTHER_COMMAND,
        "maybe_exec_rust_bench": OTHER_COMMAND,
        "cli_env_setup": "sets the start method `spawn`; the worker forks where it may, which starts sooner",
        "parse_args": "done by vllm_parts.parse_arguments",
        "configure_logging_from_args": IN_FLAGS,
        "validate": IN_FLAGS,
        "dispatch_function": PLAIN,
    },
    serve.ServeSubcommand.cmd: {
        "serve_grpc": OWN_SERVER,
        "run_dp_supervisor": OWN_PROCESSES,
        "run_headless": OWN_PROCESSES,
        "run_multi_api_server": OWN_PROCESSES,
        "run_server": "the two functions below",
    },
    serve.ServeSubcommand.validate: {"validate_parsed_serve_args": IN_FLAGS},
    entry.run_server: {
        "decorate_logs": OWN_SERVER,
        "signal": OWN_SERVER,
        "setup_server": "below",
        "run_server_worker": "below",
    },
    launcher.setup_server: {
        "log_version_and_model": "the worker logs its own phases; `python handler.py config` prints the flags",
        "log_non_default_args": "the worker logs its own phases; `python handler.py config` prints the flags",
        "import_tool_parser": IN_FLAGS,
        "import_reasoning_parser": IN_FLAGS,
        "validate_api_server_args": IN_FLAGS,
        "create_server_unix_socket": OWN_SERVER,
        "create_server_socket": OWN_SERVER,
        "set_ulimit": IN_API,
        "is_valid_ipv6_address": PLAIN,
    },
    entry.run_server_worker: {
        "import_tool_parser": IN_FLAGS,
        "import_reasoning_parser": IN_FLAGS,
        "build_async_engine_client": "below",
        "build_and_serve": "below",
        "close": OWN_SERVER,
    },
    entry.build_async_engine_client: {
        "set_start_method": "only imports ahead in a fork server",
        "set_forkserver_preload": "only imports ahead in a fork server",
        "ensure_running": "only imports ahead in a fork server",
        "from_cli_args": IN_CONFIG,
        "propagate_flash_late_interaction": IN_CONFIG,
        "build_async_engine_client_from_engine_args": "below",
    },
    entry.build_async_engine_client_from_engine_args: {
        "create_engine_config": IN_CONFIG,
        "from_vllm_config": IN_START,
        "reset_mm_cache": IN_API,
        "shutdown": "done by vllm_parts.stop_llm",
    },
    entry.build_and_serve: {
        "get_uvicorn_log_config": OWN_SERVER,
        "get_supported_tasks": IN_API,
        "build_app": IN_API,
        "init_app_state": IN_API,
        "serve_http": OWN_SERVER,
    },
}
# What every function may call.
EVERYDAY = frozenset(
    {"getattr", "hasattr", "sum", "len", "ValueError", "KeyboardInterrupt", "dict", "pop", "getenv", "debug", "info"}
    | {"warning", "print", "exit", "find_spec", "error", "run", "cmd_init", "subparser_init", "set_defaults", "format"}
    | {"add_argument", "add_subparsers", "version", "print_help", "FlexibleArgumentParser", "is_unspecified"}
    | {"CpuPlatform", "asynccontextmanager", "instrument", "get"}
)


def calls(function: Callable[..., Any]) -> Iterator[str]:
    """The names of everything that a function calls, without what they belong to."""
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
        if isinstance(node, ast.Call):
            yield node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)


@pytest.mark.parametrize("function", STEPS, ids=lambda function: function.__qualname__)
def test_every_step_of_vllm_serve_is_known(function: Callable[..., Any]) -> None:
    found = set(calls(function)) - EVERYDAY
    assert found == set(STEPS[function]), CHANGED + function.__qualname__


def test_what_the_server_is_given_is_what_the_app_looks_for() -> None:
    """vLLM's error handlers read the server from the app's state; embedded, a stand-in lies there."""
    assert "app.state.server = server" in inspect.getsource(launcher.serve_http), CHANGED + "serve_http"
    assert "server.should_exit = True" in inspect.getsource(launcher.terminate_if_errored), CHANGED


def test_the_engine_gets_every_option_that_vllm_serve_gives_it() -> None:
    tree = ast.parse(textwrap.dedent(inspect.getsource(entry.build_async_engine_client_from_engine_args)))
    (call,) = (
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and "from_vllm_config" in ast.unparse(node.func)
    )
    theirs = {keyword.arg for keyword in call.keywords}
    several_servers = {"client_addresses", "client_count", "client_index"}
    assert theirs - several_servers == {
        *("vllm_config", "usage_context", "enable_log_requests", "aggregate_engine_logging", "disable_log_stats"),
    }, CHANGED + "AsyncLLM.from_vllm_config"


@pytest.mark.parametrize("load", [ToolParserManager.import_tool_parser, ReasoningParserManager.import_reasoning_parser])
def test_a_plugin_is_imported_and_nothing_else(load: Callable[..., Any]) -> None:
    assert list(calls(load)) == ["import_plugin"], CHANGED + load.__qualname__


def parsed(environment: dict[str, str]) -> Any:
    parser = vllm_parts.serve_parser()
    command = vllm_parts.read_command_line(WorkerSettings(environment=environment), parser)
    return vllm_parts.parse_arguments(command, parser)


TOOL_PARSER = """
from vllm.tool_parsers import ToolParserManager
from vllm.tool_parsers.hermes_tool_parser import Hermes2ProToolParser

@ToolParserManager.register_module("{name}")
class Mine(Hermes2ProToolParser):
    pass
"""
REASONING_PARSER = """
from vllm.reasoning import ReasoningParserManager
from vllm.reasoning.deepseek_r1_reasoning_parser import DeepSeekR1ReasoningParser

@ReasoningParserManager.register_module("{name}")
class Mine(DeepSeekR1ReasoningParser):
    pass
"""


def test_a_tool_parser_of_ones_own_can_be_named(tmp_path: Path) -> None:
    plugin = tmp_path / "tool_parser_of_this_test.py"
    plugin.write_text(TOOL_PARSER.format(name="tools_of_this_test"))
    flags = {"ENABLE_AUTO_TOOL_CHOICE": "true", "TOOL_CALL_PARSER": "tools_of_this_test"}
    with pytest.raises(ConfigurationError, match="tools_of_this_test"):
        parsed(flags)
    assert parsed(flags | {"TOOL_PARSER_PLUGIN": str(plugin)}).tool_call_parser == "tools_of_this_test"


def test_a_reasoning_parser_of_ones_own_can_be_named(tmp_path: Path) -> None:
    plugin = tmp_path / "reasoning_parser_of_this_test.py"
    plugin.write_text(REASONING_PARSER.format(name="reasons_of_this_test"))
    flags = {"REASONING_PARSER": "reasons_of_this_test", "REASONING_PARSER_PLUGIN": str(plugin)}
    assert parsed(flags).reasoning_parser == "reasons_of_this_test"


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"TOOL_PARSER_PLUGIN": "/no/such/parser.py"}, "TOOL_PARSER_PLUGIN=/no/such/parser.py: cannot be imported"),
        ({"REASONING_PARSER_PLUGIN": "/no/such.py"}, "REASONING_PARSER_PLUGIN=/no/such.py: cannot be imported"),
        ({"ENABLE_AUTO_TOOL_CHOICE": "true", "TOOL_CALL_PARSER": "nobodys"}, "nobodys"),
        ({"TOOL_CALL_PARSER": "nobodys"}, "nobodys"),
        ({"REASONING_PARSER": "nobodys"}, "nobodys"),
        ({"STRUCTURED_OUTPUTS_CONFIG": '{"reasoning_parser": "nobodys"}'}, "nobodys"),
        ({"SSE_KEEP_ALIVE_INTERVAL": "-1"}, "sse-keep-alive-interval"),
        ({"ENABLE_LOG_OUTPUTS": "true"}, "enable-log-outputs"),
        ({"SPECULATIVE_CONFIG": "[1]"}, "SPECULATIVE_CONFIG: .* is a JSON object"),
        ({"DEFAULT_CHAT_TEMPLATE_KWARGS": "5"}, "DEFAULT_CHAT_TEMPLATE_KWARGS: .* is a JSON object"),
        ({"VLLM_EXTRA_ARGS": "--speculative-config 5"}, "VLLM_EXTRA_ARGS: .* is a JSON object"),
        ({"VLLM_EXTRA_ARGS": "-h"}, "VLLM_EXTRA_ARGS: --help would end the worker"),
        ({"VLLM_EXTRA_ARGS": "--help=all"}, "VLLM_EXTRA_ARGS: --help would end the worker"),
        ({"VLLM_EXTRA_ARGS": "m --hel"}, "VLLM_EXTRA_ARGS: --help would end the worker"),
    ],
)
def test_what_vllm_serve_refuses_is_refused_before_the_model_is_loaded(environment: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        parsed(environment)


@pytest.mark.parametrize("text", ["raise RuntimeError('x')", "raise SystemExit(0)"])
def test_a_plugin_that_fails_is_an_error_with_its_variable(text: str, tmp_path: Path) -> None:
    plugin = tmp_path / "broken_parser_of_this_test.py"
    plugin.write_text(text)
    with pytest.raises(ConfigurationError, match=r"TOOL_PARSER_PLUGIN=.*cannot be imported"):
        parsed({"TOOL_PARSER_PLUGIN": str(plugin)})


def test_a_model_named_without_a_flag_is_the_model() -> None:
    assert parsed({"VLLM_EXTRA_ARGS": "org/model --model-impl auto"}).model == "org/model"


def test_a_chat_template_that_is_no_text_is_an_error_with_its_variable(tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    template.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match=r"CHAT_TEMPLATE: .*cannot be read"):
        parsed({"CHAT_TEMPLATE": str(template)})


def test_the_flags_that_take_any_json_and_mean_an_object_are_known() -> None:
    parser = vllm_parts.serve_parser()
    taken = {
        flag for flag, action in flags_of(parser).items() if action.type is not None and _takes_a_list(action.type)
    }
    lists = {"allowed_headers", "allowed_methods", "allowed_origins", "custom_histogram_buckets"}
    assert taken - lists == set(vllm_serve.OBJECT_FLAGS), CHANGED


def _takes_a_list(kind: Any) -> bool:
    try:
        return bool(kind("[1]") == [1])
    except Exception:  # whatever it raises, it does not take it
        return False
