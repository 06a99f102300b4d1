"""`tasks` in models.yaml: who answers for `task:code`, and what is wrong with it."""

from __future__ import annotations

import json

import pytest

from tests.vllm_service.catalog.support import PROVIDERS, Configured
from vllm_service.cli import check as command
from vllm_service.cli.parser import parse
from vllm_service.errors import ConfigurationError

MODELS = """\
models:
  small:
    offers: [{provider: mine, model: small}]
    aliases: [tiny]
  large:
    offers: [{provider: groq, model: llama-3.3-70b-versatile}]
"""
DISABLED = PROVIDERS.replace("groq: {preset: groq}", "groq: {preset: groq, enabled: false}")


def test_a_task_is_one_more_alias_of_the_first_candidate_that_is_served(configured: Configured) -> None:
    tasks = "tasks: {code: [large, small], chat: tiny}\n"
    models = configured.read(models=tasks + MODELS).catalog.models
    assert (models["task:code"], models["task:chat"]) == (models["large"], models["small"])
    assert models["small"] is models["tiny"]
    assert models["small"].aliases == ("tiny", "task:chat")
    without_groq = configured.read(DISABLED, tasks + MODELS)
    assert without_groq.catalog.models["task:code"].name == "small"


def test_one_model_can_answer_for_several_tasks(configured: Configured) -> None:
    models = configured.read(models="tasks: {code: small, chat: small}\n" + MODELS).catalog.models
    assert models["task:code"] is models["task:chat"] is models["small"]
    assert models["small"].aliases == ("tiny", "task:code", "task:chat")


def test_a_task_that_nobody_answers_for_is_told(configured: Configured) -> None:
    loaded = configured.read(DISABLED, "tasks: {code: large}\n" + MODELS)
    assert "task:code" not in loaded.catalog.models
    assert "tasks.code: none of its models is served, so requests for task:code are refused" in loaded.warnings


@pytest.mark.parametrize(
    ("tasks", "complaint"),
    [
        ("{code: smal}", r"models\.yaml:1: tasks\.code: 'smal' is not known \(did you mean small\?\)"),
        ("{code: [small, lage]}", r"models\.yaml:1: tasks\.code\[1\]: 'lage' is not known \(did you mean large\?\)"),
        ("{code: []}", r"tasks\.code: there is no model"),
        ("{code: {model: small}}", r"tasks\.code: expected text"),
        ("{'task:code': small}", r"tasks\.task:code: a task's name has 1 to 64 letters"),
        ("[code]", r"tasks: expected keys and values"),
        ("{code: small, code: large}", r"tasks\.code: the key is here twice"),
    ],
)
def test_what_is_wrong_with_tasks_is_named(configured: Configured, tasks: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        configured.read(models=f"tasks: {tasks}\n{MODELS}")


def test_a_model_that_is_called_like_a_task_is_not_hidden_by_it(configured: Configured) -> None:
    with pytest.raises(ConfigurationError, match=r"tasks\.code: task:code is already the name of a model"):
        configured.read(models="tasks: {code: small}\n" + MODELS.replace("tiny", "'task:code'"))


def test_check_shows_who_answers_for_what(configured: Configured, capsys: pytest.CaptureFixture[str]) -> None:
    configured.write(models="tasks: {code: [large, small], chat: tiny}\n" + MODELS)
    assert command.run(parse(["check", "--offline"]), configured.environment()) == 0
    shown = capsys.readouterr().out
    assert "Models: large, small, tiny\n" in shown
    assert "Tasks: chat by small, code by large\n" in shown
    assert command.run(parse(["check", "--offline", "--json"]), configured.environment()) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["tasks"] == {"chat": "small", "code": "large"}
    assert document["models"] == ["large", "small", "tiny"]
