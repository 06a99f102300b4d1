"""Reads the `tasks` of models.yaml: the public model that answers requests for `task:code`, as one more alias."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace

from vllm_service.catalog.model import PublicModel
from vllm_service.catalog.yaml_file import Value

PREFIX = "task:"
_TASK = re.compile(r"[A-Za-z0-9._-]{1,64}")


def with_tasks(
    models: Mapping[str, PublicModel], tasks: Value, declared: Collection[str], warnings: list[str]
) -> dict[str, PublicModel]:
    """Returns the models with their tasks as aliases: of a task's candidates, the first that is served.

    tasks: `{code: MODEL}` or `{code: [MODEL, MODEL]}`, by name or alias. declared: all names in the file, those of
    models without an enabled provider included. warnings: receives the tasks without a served candidate.
    Raises ConfigurationError.
    """
    answered: dict[str, list[str]] = {}
    for task, value in tasks.section():
        with tasks.faults:
            served = _served(task, value, models, declared)
            if served is not None:
                answered.setdefault(models[served].name, []).append(PREFIX + task)
            elif not tasks.faults:  # a model that is wrong is served when it is right
                warnings.append(
                    f"{value.path}: none of its models is served, so requests for {PREFIX}{task} are refused"
                )
    return _named(models, answered)


def _served(task: str, value: Value, models: Mapping[str, PublicModel], declared: Collection[str]) -> str | None:
    """Returns the first of the task's candidates that is served."""
    if not _TASK.fullmatch(task):
        raise value.wrong(f"a task's name has 1 to 64 letters, digits, and . _ -; callers write {PREFIX}NAME")
    candidates = _candidates(value, declared)
    if PREFIX + task in declared:
        raise value.wrong(f"{PREFIX}{task} is already the name of a model; rename one")
    return next((name for name in candidates if name in models), None)


def tasks_of(models: Mapping[str, PublicModel]) -> dict[str, str]:
    """Returns the model's name for each task."""
    return {name.removeprefix(PREFIX): model.name for name, model in models.items() if name.startswith(PREFIX)}


def _candidates(value: Value, declared: Collection[str]) -> list[str]:
    if not value.is_list:
        return [value.choice(declared)]
    if not (items := value.items()):
        raise value.wrong("there is no model; name one, or several: [first, second]")
    return [item.choice(declared) for item in items]


def _named(models: Mapping[str, PublicModel], answered: Mapping[str, list[str]]) -> dict[str, PublicModel]:
    """Returns the models under all their names, one object for each model."""
    named = {
        model.name: replace(model, aliases=(*model.aliases, *answered.get(model.name, ()))) for model in models.values()
    }
    found = {name: named[model.name] for name, model in models.items()}
    return found | {task: named[name] for name, tasks in answered.items() for task in tasks}
