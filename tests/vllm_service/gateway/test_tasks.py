"""A request for `task:code` through the gateway, as models.yaml says who answers it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.vllm_service.gateway.running import Running, running
from vllm_service.catalog.load import load
from vllm_service.settings import ServiceSettings
from vllm_service.testing import ScriptedProvider, chat

MESSAGES: Any = [{"role": "user", "content": "Hi"}]


@asynccontextmanager
async def configured(directory: Path, upstream: ScriptedProvider, tasks: Any) -> AsyncIterator[Running]:
    """A gateway with the cost router, configured by files."""
    async with upstream:
        providers = {"provider-1": {"base_url": upstream.url}}
        models = {
            name: {"offers": [{"provider": "provider-1", "model": f"{name}-there"}]} for name in ("small", "large")
        }
        (directory / "providers.yaml").write_text(json.dumps({"providers": providers}))
        (directory / "models.yaml").write_text(json.dumps({"models": models, "tasks": tasks}))
        catalog = load(ServiceSettings.from_environment({"CONFIG_DIR": str(directory)}))
        async with running(catalog, router_costs=True) as gateway:
            yield gateway


async def test_a_task_is_answered_by_its_model_which_the_ledger_names(tmp_path: Path) -> None:
    upstream = ScriptedProvider(chat("Hello"))
    async with configured(tmp_path, upstream, {"code": "large", "chat": ["small", "large"]}) as gateway:
        for task in ("task:code", "task:chat"):
            await gateway.client.chat.completions.create(model=task, messages=MESSAGES)
        rows = [await gateway.books.row(number) for number in range(2)]
    assert [request.json["model"] for request in upstream.requests] == ["large-there", "small-there"]
    assert [row.model for row in rows] == ["large", "small"]


async def test_an_unknown_task_is_a_404_that_names_those_there_are(tmp_path: Path) -> None:
    async with configured(tmp_path, ScriptedProvider(chat("Hello")), {"code": "large"}) as gateway:
        with pytest.raises(openai.NotFoundError, match="task:code"):
            await gateway.client.chat.completions.create(model="task:poetry", messages=MESSAGES)
