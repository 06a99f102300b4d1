"""`explain`: the router's plan for a described request, by your own configuration or by a scenario."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from vllm_service.catalog.model import Catalog, ProviderKind
from vllm_service.cli.argument_types import count, dollars, strategy, whole_number
from vllm_service.cli.command import Command
from vllm_service.cli.configuration import validated
from vllm_service.cli.json_option import add_json, write_json
from vllm_service.data import Kind, path_of
from vllm_service.domain.cost_basis import EXPECTED
from vllm_service.domain.money import to_usd
from vllm_service.domain.requests import RequestFacts
from vllm_service.domain.strategies import RoutingStrategy
from vllm_service.routing.explanation import PlanExplanation, explain
from vllm_service.routing.from_catalog import make_router
from vllm_service.routing.router import CostRouter
from vllm_service.simulation.policies.cost import MODEL, catalog_of, settings_of
from vllm_service.simulation.scenario import load_scenario


def run(options: argparse.Namespace) -> int:
    """Prints the plan and its reason; returns 0. Sends nothing. Raises the error that a caller would get."""
    explanation = _explanation(options)
    if options.json:
        write_json(_document(explanation))
    else:
        sys.stdout.write("\n".join(_lines(explanation)) + "\n")
    return 0


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", metavar="NAME", help="a name, alias or task of models.yaml")
    source.add_argument("--scenario", metavar="NAME|FILE", help="a shipped scenario (`examples list`), or your own")
    parser.add_argument(
        "--prompt-tokens", type=whole_number, default=1000, metavar="N", help="the prompt's length (default: 1000)"
    )
    parser.add_argument(
        "--max-tokens", type=count, metavar="N", help="the most tokens of the answer (default: unknown)"
    )
    parser.add_argument(
        "--warm", type=whole_number, default=0, metavar="N", help="warm workers of each own endpoint (default: 0)"
    )
    parser.add_argument(
        "--strategy",
        type=strategy,
        choices=[name.value for name in RoutingStrategy],
        metavar="NAME",
        help=f"a routing strategy, one of {', '.join(RoutingStrategy)} (default: the model's, else DEFAULT_STRATEGY)",
    )
    parser.add_argument("--cap-usd", type=dollars, metavar="USD", help="the most that the request may cost")
    parser.add_argument(
        "--tag",
        action="append",
        default=[],
        help="what the provider must have: region:eu, needs:vision; may be repeated",
    )
    add_json(parser)


def _explanation(options: argparse.Namespace) -> PlanExplanation:
    """Returns the router's plan with its reasons. Raises the router's errors, as a caller would get them."""
    router, catalog, model = _scenario(options.scenario) if options.scenario else _configuration(options.model)
    for name, provider in catalog.providers.items():
        if provider.kind is ProviderKind.RUNPOD:
            router.observe_health(name, {"workers": {"idle": options.warm}}, 0.0)
    facts = RequestFacts(
        model,
        "chat.completions",
        options.prompt_tokens,
        max_tokens=options.max_tokens,
        strategy=options.strategy,
        cap_picousd=options.cap_usd,
        tags=frozenset(options.tag),
    )
    return explain(router, facts, 0.0)


def _scenario(name: str) -> tuple[CostRouter, Catalog, str]:
    scenario = load_scenario(path_of(Kind.SCENARIO, name))
    catalog = catalog_of(scenario)
    return CostRouter(catalog, settings_of(scenario)), catalog, MODEL


def _configuration(model: str) -> tuple[CostRouter, Catalog, str]:
    configuration = validated()
    catalog = configuration.loaded.catalog
    found = catalog.models.get(model)
    router = make_router(catalog, configuration.settings.default_strategy)
    return router, catalog, found.name if found else model


def _lines(explanation: PlanExplanation) -> list[str]:
    lines = [f"why: {explanation.plan.reason}"]
    for number, step in enumerate(explanation.steps, 1):
        cost = "price unknown" if step.cost_picousd is None else f"{to_usd(step.cost_picousd):.8f} USD expected"
        lines.append(f"{number}. {step.provider} ({step.model}): {cost}{f' - {step.note}' if step.note else ''}")
    for offer in explanation.left_out:
        lines.append(f"not tried: {offer.provider} ({offer.model}) - {offer.note}")
    return lines


def _document(explanation: PlanExplanation) -> dict[str, Any]:
    return {
        "reason": explanation.plan.reason,
        "offers": [
            {
                "provider": step.provider,
                "model": step.model,
                "cost_usd": to_usd(step.cost_picousd),
                "cost_picousd": step.cost_picousd,
                "cost_basis": None if step.cost_picousd is None else EXPECTED,
                "note": step.note,
            }
            for step in explanation.steps
        ],
        "not_tried": [
            {"provider": offer.provider, "model": offer.model, "note": offer.note} for offer in explanation.left_out
        ],
    }


COMMAND = Command(
    "Shows to which offers a request would go, in which order and why, and what each would cost: by providers.yaml and "
    "models.yaml, before anything was measured, or by the estimates of a scenario. Nothing is sent.",
    _add_arguments,
    run,
)
