"""`explain`: the plan for a described request, with what each place would cost and why it is where it is."""

from __future__ import annotations

import argparse
import sys

from vllm_service.domain.money import picousd, to_usd
from vllm_service.domain.requests import RequestFacts
from vllm_service.routing.router import CostRouter
from vllm_service.simulation.cost_policy import MODEL, OWN, catalog_of, settings_of
from vllm_service.simulation.scenario import load_scenario


def explain(options: argparse.Namespace) -> int:
    """Prints the plan; 0. Raises the router's errors, as a caller would get them."""
    scenario = load_scenario(options.scenario)
    router = CostRouter(catalog_of(scenario), settings_of(scenario))
    router.observe_health(OWN, {"workers": {"idle": options.warm}}, 0.0)
    cap = None if options.cap_usd is None else picousd(f"{options.cap_usd:.12f}")
    facts = RequestFacts(
        MODEL,
        "chat.completions",
        options.prompt_tokens,
        max_tokens=options.max_tokens,
        strategy=options.strategy,
        cap_picousd=cap,
    )
    plan = router.plan(facts, 0.0)
    lines = [
        f"why: {plan.reason}",
        f"first token within {scenario.target.first_token_seconds(facts.prompt_tokens):.2f} s",
    ]
    for number, step in enumerate(plan.steps, 1):
        cost = "price unknown" if step.cost_picousd is None else f"{to_usd(step.cost_picousd):.8f} USD"
        lines.append(f"{number}. {step.provider} ({step.model}): {cost}")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0
