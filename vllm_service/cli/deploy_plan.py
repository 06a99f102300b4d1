"""`deploy plan`: the GPU pools that hold a model, what they cost, and what would change at RunPod."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping
from functools import partial

from rich.console import Console

from vllm_service.cli.deploy_ledger import measured
from vllm_service.cli.deploy_options import add_spec_arguments, spec_of
from vllm_service.cli.deploy_plan_report import show, to_json
from vllm_service.cli.exit_codes import DIFFERS
from vllm_service.cli.json_option import add_json, write_json
from vllm_service.cli.storage_options import add_location, wide_console
from vllm_service.deployment.hub import Hub
from vllm_service.deployment.plan import Plan
from vllm_service.deployment.planning import files_of, make_plan
from vllm_service.deployment.settings import KEY_VARIABLE, DeploySettings
from vllm_service.deployment.spec import DeploymentSpec
from vllm_service.errors import ConfigurationError
from vllm_service.runpod.command_http import open_send
from vllm_service.runpod.rest_api import RestApi

SUMMARY = "show which GPUs hold the model, what they cost, and what apply would change"
DESCRIPTION = (
    "Shows what the model's weights and KV cache need, which GPU pools hold them, dollars a second and a month, and "
    f"what RunPod has otherwise. It changes nothing. Without {KEY_VARIABLE} prices are those of a shipped table, and "
    "nothing is compared."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the action."""
    add_spec_arguments(parser)
    add_json(parser)
    add_location(parser)
    parser.add_argument("--check", action="store_true", help=f"exit with {DIFFERS} where apply would change something")
    parser.add_argument("--offline", action="store_true", help="ask neither RunPod nor the hub")


def run(
    options: argparse.Namespace, environment: Mapping[str, str] | None = None, console: Console | None = None
) -> int:
    """Returns 0, or with --check 4 where RunPod has something otherwise. Raises ServiceError.

    environment: this process's by default.
    """
    settings = DeploySettings.from_environment(environment, key_needed=False)
    spec = spec_of(options)
    if options.check and (options.offline or not settings.api_key):
        raise ConfigurationError(f"--check compares with RunPod: set {KEY_VARIABLE}, and leave out --offline")
    plan = asyncio.run(_plan(spec, settings, options))
    if options.json:
        write_json(to_json(plan))
    else:
        show(plan, console or wide_console())
    return DIFFERS if options.check and plan.differences else 0


async def _plan(spec: DeploymentSpec, settings: DeploySettings, options: argparse.Namespace) -> Plan:
    hub = Hub.of(settings.environment, offline=options.offline)
    files = await asyncio.to_thread(files_of, spec, hub)
    if options.offline or not settings.api_key:
        return await make_plan(spec, files, None, settings.environment)
    ledger = partial(measured, options, settings.environment)
    async with open_send() as send:
        api = RestApi(settings.origin, settings.api_key, send)
        return await make_plan(spec, files, api, settings.environment, ledger)
