"""`explain`: the router's plan for a described request, by your own configuration or by a scenario."""

from __future__ import annotations

import argparse
import sys

from vllm_service.catalog.load import load
from vllm_service.catalog.model import Catalog, ProviderKind
from vllm_service.cli.argument_types import count, dollars, whole_number
from vllm_service.cli.command import Command
from vllm_service.data import Kind, path_of
from vllm_service.domain.money import to_usd
from vllm_service.domain.plan import Plan
from vllm_service.domain.requests import RequestFacts
from vllm_service.routing.from_catalog import make_router
from vllm_service.routing.router import CostRouter
from vllm_service.settings import ServiceSettings
from vllm_service.simulation.policies.cost import MODEL, catalog_of, settings_of
from vllm_service.simulation.scenario import load_scenario


def run(options: argparse.Namespace) -> int:
    """Prints the plan and its reason; returns 0. Sends nothing. Raises the error that a caller would get."""
    sys.stdout.write("\n".join(_lines(_plan(options))) + "\n")
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
    parser.add_argument("--strategy", metavar="NAME", help="a routing strategy (default: the model's, else COST)")
    parser.add_argument("--cap-usd", type=dollars, metavar="USD", help="the most that the request may cost")
    parser.add_argument(
        "--tag",
        action="append",
        default=[],
        help="what the provider must have: region:eu, needs:vision; may be repeated",
    )


def _plan(options: argparse.Namespace) -> Plan:
    """Returns the router's plan. Raises the router's errors, as a caller would get them."""
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
    return router.plan(facts, 0.0)


def _scenario(name: str) -> tuple[CostRouter, Catalog, str]:
    scenario = load_scenario(path_of(Kind.SCENARIO, name))
    catalog = catalog_of(scenario)
    return CostRouter(catalog, settings_of(scenario)), catalog, MODEL


def _configuration(model: str) -> tuple[CostRouter, Catalog, str]:
    settings = ServiceSettings.from_environment()
    catalog = load(settings)
    found = catalog.models.get(model)
    return make_router(catalog, settings.default_strategy), catalog, found.name if found else model


def _lines(plan: Plan) -> list[str]:
    lines = [f"why: {plan.reason}"]
    for number, step in enumerate(plan.steps, 1):
        cost = "price unknown" if step.cost_picousd is None else f"{to_usd(step.cost_picousd):.8f} USD"
        lines.append(f"{number}. {step.provider} ({step.model}): {cost}")
    return lines


COMMAND = Command(
    "Shows to which offers a request would go, in which order and why, and what each would cost: by providers.yaml and "
    "models.yaml, before anything was measured, or by the estimates of a scenario. Nothing is sent.",
    _add_arguments,
    run,
)
