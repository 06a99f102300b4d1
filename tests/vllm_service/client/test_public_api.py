"""The client's public names and signatures: applications are written against them."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import assert_type

import pytest

import vllm_service
from vllm_service import Answer, BatchItem, LLMRouter, RetryPolicy, RunPodVLLMService, RunPodVLLMServiceSync, TextStream
from vllm_service.client.runpod.sync import SyncTextStream
from vllm_service.client.text_calls import TextCalls
from vllm_service.errors import InvalidRequest

EXPORTED = [
    "Answer",
    "BatchFailed",
    "BatchItem",
    "BatchJob",
    "BatchResult",
    "BatchState",
    "BatchSummary",
    "Candidate",
    "Choice",
    "CostComparison",
    "Delta",
    "EndpointHealth",
    "Ensemble",
    "Explanation",
    "Job",
    "JobCancelled",
    "JobStatus",
    "LLMRouter",
    "Offering",
    "RateLimit",
    "RetryPolicy",
    "RoutingStrategy",
    "RunPodVLLMService",
    "RunPodVLLMServiceSync",
    "ServiceError",
    "StreamBroken",
    "TextStream",
    "TokenPrice",
    "ToolCall",
    "ToolCallPart",
    "Usage",
    "compare_costs",
]
ASKED = "model=None, max_tokens=500, temperature=0.7"
ASKED_OF_ANY = "model=None, max_tokens=None, temperature=None"
METHODS = {
    "__init__": "endpoint_id=None, api_key=None, base_url=None, default_model=None, *, models_by_task=None, "
    "prices=None, retry=None, timeout_seconds=600.0, queue_limits=QUEUE_LIMITS, queue_window_seconds=10.0, "
    "http_client=None",
    "generate": f"prompt, {ASKED}, **options",
    "generate_with_retry": f"prompt, {ASKED}, *, retry=None, **options",
    "complete": f"prompt, {ASKED}, *, retry=ONE_ATTEMPT, **options",
    "chat": f"messages, {ASKED}, *, retry=ONE_ATTEMPT, **options",
    "stream": f"prompt, {ASKED}, *, retry=ONE_ATTEMPT, **options",
    "stream_chat": f"messages, {ASKED}, *, retry=ONE_ATTEMPT, **options",
    "batch": f"prompts, {ASKED}, *, concurrent=64, retry=None, file=None, progress=False, **options",
    "batch_generate": f"prompts, {ASKED}, *, concurrent=64, retry=None, file=None, progress=False, **options",
    "ensemble_generate": "prompt, models, max_tokens=500, temperature=0.7, *, scorer=consensus, retry=ONE_ATTEMPT, "
    "**options",
    "create_batch": "inputs=()",
    "batch_job": "batch_id",
    "list_batches": "",
    "openai_input": f"prompt, {ASKED}, *, key=None, **options",
    "select_model_by_task": "task",
    "submit": "job_input, *, webhook=None, execution_timeout_seconds=None, ttl_seconds=None, low_priority=False",
    "status": "job_id",
    "wait": "job_id, *, timeout_seconds=None",
    "stream_job": "job_id",
    "cancel": "job_id",
    "retry": "job_id",
    "health": "",
    "close": "",
}


ROUTER_METHODS = {
    "__init__": "strategy=<RoutingStrategy.BALANCED: 'BALANCED'>, providers=None, *, default_model=None, router=None, "
    "breakers=None, gatekeeper=None, retries=None, hedging=None, timeout_seconds=600.0, "
    "clock=<built-in function monotonic>",
    "generate": f"prompt, {ASKED_OF_ANY}, **options",
    "complete": f"prompt, {ASKED_OF_ANY}, **options",
    "chat": f"messages, {ASKED_OF_ANY}, **options",
    "stream": f"prompt, {ASKED_OF_ANY}, **options",
    "stream_chat": f"messages, {ASKED_OF_ANY}, **options",
    "explain": "prompt, model=None, max_tokens=None, **options",
    "close": "",
}


def written(method: object) -> str:
    """Names and defaults, without types; the longest defaults by their names."""
    from vllm_service.client.ensemble import consensus
    from vllm_service.client.settings import ONE_ATTEMPT, QUEUE_LIMITS

    names = {id(ONE_ATTEMPT): "ONE_ATTEMPT", id(QUEUE_LIMITS): "QUEUE_LIMITS", id(consensus): "consensus"}
    parts: list[str] = []
    for parameter in list(inspect.signature(method).parameters.values())[1:]:  # type: ignore[arg-type]
        keyword = parameter.kind is inspect.Parameter.KEYWORD_ONLY
        if keyword and "*" not in parts:
            parts.append("*")
        star = "**" if parameter.kind is inspect.Parameter.VAR_KEYWORD else ""
        default = parameter.default
        given = "" if default is inspect.Parameter.empty else f"={names.get(id(default), repr(default))}"
        parts.append(f"{star}{parameter.name}{given}")
    return ", ".join(parts)


def test_the_exported_names_are_these_and_all_exist() -> None:
    assert sorted(vllm_service.__all__) == EXPORTED
    assert all(getattr(vllm_service, name).__doc__ for name in EXPORTED)
    assert set(EXPORTED) <= set(dir(vllm_service))
    with pytest.raises(AttributeError, match="Nobody"):
        _ = vllm_service.Nobody


def public(kind: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(kind, callable) if not name.startswith("_")}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_takes_what_applications_pass(name: str) -> None:
    method = getattr(RunPodVLLMService, name)
    assert written(method) == METHODS[name]
    assert name == "__init__" or method.__doc__


@pytest.mark.parametrize("name", ROUTER_METHODS)
def test_a_method_of_the_router_takes_what_applications_pass(name: str) -> None:
    method = getattr(LLMRouter, name)
    assert written(method) == ROUTER_METHODS[name]
    assert name == "__init__" or method.__doc__
    assert public(LLMRouter) | {"__init__"} == set(ROUTER_METHODS)


def test_no_method_is_public_that_is_not_pinned() -> None:
    assert public(RunPodVLLMService) | {"__init__"} == set(METHODS)


def test_the_sync_facade_has_every_method_with_the_same_signature() -> None:
    assert public(RunPodVLLMServiceSync) == public(RunPodVLLMService)
    for name in public(RunPodVLLMService):
        own = getattr(RunPodVLLMServiceSync, name)
        assert written(own) == METHODS[name]
        assert own.__doc__


def test_the_sync_facade_is_made_with_the_same_arguments() -> None:
    assert written(RunPodVLLMServiceSync.__init__) == METHODS["__init__"]


def test_every_client_shares_the_text_calls() -> None:
    calls = [name for name in public(TextCalls) if not name.startswith("_")]
    assert sorted(calls) == ["chat", "complete", "generate", "stream", "stream_chat"]
    assert issubclass(RunPodVLLMService, TextCalls)
    assert issubclass(LLMRouter, TextCalls)
    assert all(getattr(LLMRouter, name) is getattr(TextCalls, name) for name in calls)


async def test_a_call_that_is_given_what_cannot_be_asked_raises_where_it_is_awaited() -> None:
    async with RunPodVLLMService(base_url="http://127.0.0.1:9") as service:
        call = service.generate("")
        with pytest.raises(InvalidRequest, match="prompt"):
            await call
    assert inspect.iscoroutinefunction(RunPodVLLMService.generate)


async def _read_by_the_type_checker(service: RunPodVLLMService, sync: RunPodVLLMServiceSync, router: LLMRouter) -> None:
    """Never run: an `ignore` that is not needed is an error, so each line here is a type that survived."""
    assert_type(await service.generate("x", "m", 5, 0.5, stop=["x"]), str)
    assert_type(await service.complete(prompt="x", retry=RetryPolicy()), Answer)
    assert_type(service.stream_chat(messages=[], max_tokens=5), TextStream)
    assert_type(await service.batch(["x"], file="x", progress=True), list[BatchItem])
    assert_type(await router.chat([{"role": "user"}]), Answer)
    assert_type(router.stream("x"), TextStream)
    assert_type(sync.generate(prompt="x", temperature=0.5), str)
    assert_type(sync.stream("x", max_tokens=5), SyncTextStream)
    assert_type(sync.batch_generate(["x"]), list[str])
    await service.generate(5)  # type: ignore[arg-type]
    await service.generate("x", max_tokens="5")  # type: ignore[arg-type]
    await service.complete("x", retry=5)  # type: ignore[arg-type]
    await service.batch(["x"], concurrent="5")  # type: ignore[arg-type]
    await router.chat()  # type: ignore[call-arg]
    router.stream("x", temperature="x")  # type: ignore[arg-type]
    sync.complete("x", retry=5)  # type: ignore[arg-type]
    RunPodVLLMServiceSync(endpoint_id=5)  # type: ignore[arg-type]
    RunPodVLLMServiceSync(nobody="x")  # type: ignore[call-arg]


SERVERS = {"fastapi", "uvicorn", "starlette", "asyncpg", "redis", "sqlite3", "prometheus_client", "pyarrow"}
BEYOND_THE_EXTRA = SERVERS | {"numpy", "rich", "yaml", "genai_prices", "psutil", "tokenizers"}


@pytest.mark.parametrize(
    ("names", "unwanted"),
    [
        ("ServiceError", BEYOND_THE_EXTRA),
        ("RunPodVLLMService, RunPodVLLMServiceSync, compare_costs", BEYOND_THE_EXTRA),
        ("LLMRouter, RoutingStrategy", BEYOND_THE_EXTRA),
    ],
)
def test_importing_the_client_loads_nothing_of_a_server(names: str, unwanted: set[str]) -> None:
    """Nor anything beyond the `client` extra."""
    check = f"from vllm_service import {names}\nimport sys\nprint(*sorted({unwanted!r} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == []


def test_importing_the_package_loads_its_version_alone() -> None:
    check = "import vllm_service, sys\nprint(*sorted(name for name in sys.modules if name.startswith('vllm_service.')))"
    ended = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["vllm_service.version"]
