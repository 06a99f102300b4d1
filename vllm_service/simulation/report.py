"""Prints results for people and for programs: a table on stdout, or one JSON document."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from vllm_service.simulation.compare import CLAIRVOYANT, Result


def as_json(results: Sequence[Result]) -> str:
    """Returns `{"policies": [{"policy", "usd", ...}]}`, in the order in which they ran."""
    return json.dumps({"policies": [result.to_json() for result in results]}, indent=2)


def print_table(results: Sequence[Result], title: str) -> None:
    """Prints the policies, the cheapest first; the bound is no policy and comes last."""
    table = Table(title=title, caption="Simulated; parameters are estimates. The bound knows the future.")
    for column in ("policy", "USD", "USD per M tokens", "within target", "worker hours", "starts"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for result in sorted(results, key=lambda result: (result.policy == CLAIRVOYANT, result.usd)):
        bound = result.policy == CLAIRVOYANT
        table.add_row(
            f"{result.policy} (bound)" if bound else result.policy,
            f"{result.usd:.4f}",
            f"{result.usd_per_million_tokens:.4f}",
            f"{'>= ' if bound else ''}{result.within_target_pct:.2f} %",
            f"{result.worker_hours:.2f}",
            str(result.starts),
        )
    Console().print(table)
