"""schemathesis against a served OpenAPI document, bounded: each operation gets valid and invalid requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import load_all_checks

MOST_EXAMPLES = 20


def operations(address: str, key: str | None, choose: Callable[[str, str], bool] | None = None) -> list[Any]:
    """The document's operations that `choose(method, path)` takes; all by default."""
    load_all_checks()
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json", headers=headers)
    found = [result.ok() for result in schema.get_all_operations()]
    return [one for one in found if choose is None or choose(one.method.upper(), one.path)]


def assert_conforms(operation: Any, key: str | None, model: str | None = None) -> int:
    """How many requests were made. Raises schemathesis' failures: a 500, a breach of the schema, a wrong refusal.

    model: put into every valid body, since a made-up one only ever leads to a 404.
    """
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    valid = _run(operation, schemathesis.GenerationMode.POSITIVE, headers, model)
    try:
        return valid + _run(operation, schemathesis.GenerationMode.NEGATIVE, headers, None)
    except Unsatisfiable:  # an operation without parameters cannot be called wrongly
        return valid


def _run(operation: Any, mode: Any, headers: dict[str, str], model: str | None) -> int:
    made = 0

    @settings(
        max_examples=MOST_EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        nonlocal made
        made += 1
        if model is not None and isinstance(case.body, dict):
            case.body["model"] = model
        case.call_and_validate(headers=headers)

    run()
    return made
