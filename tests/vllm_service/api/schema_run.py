"""schemathesis against a served OpenAPI document, bounded: every operation is called with valid and invalid requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import load_all_checks

MOST_EXAMPLES = 20


def operations(address: str, key: str | None, choose: Callable[[str, str], bool] | None = None) -> list[Any]:
    """The document's operations that `choose(method, path)` takes; all by default."""
    load_all_checks()
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json", headers=headers)
    found = [result.ok() for result in schema.get_all_operations()]
    return [one for one in found if choose is None or choose(one.method.upper(), one.path)]


def assert_conforms(operation: Any, key: str | None) -> None:
    """Raises schemathesis' failures, with a curl command for each: a 500, a breach of the schema, a wrong refusal."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    for mode in schemathesis.GenerationMode.all() if hasattr(schemathesis.GenerationMode, "all") else ():
        _run(operation, mode, headers)


def _run(operation: Any, mode: Any, headers: dict[str, str]) -> None:
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
        case.call_and_validate(headers=headers)

    run()
