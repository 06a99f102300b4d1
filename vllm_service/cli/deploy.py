"""`deploy plan | apply | status | logs | destroy`: a model on an endpoint of RunPod."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Protocol

from vllm_service.cli import deploy_apply, deploy_destroy, deploy_logs, deploy_plan, deploy_status
from vllm_service.cli.command import Command


class Action(Protocol):
    """The module of one action."""

    #: A line of `deploy --help`.
    SUMMARY: str
    #: Sentences for `deploy ACTION --help`.
    DESCRIPTION: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Adds the arguments of the action."""

    def run(self, options: argparse.Namespace) -> int:
        """Returns the exit code. Raises ServiceError."""


#: In the order of `deploy --help`.
ACTIONS: Mapping[str, Action] = {
    "plan": deploy_plan,
    "apply": deploy_apply,
    "status": deploy_status,
    "logs": deploy_logs,
    "destroy": deploy_destroy,
}


def run(options: argparse.Namespace) -> int:
    """Returns the exit code of the action."""
    return ACTIONS[options.action].run(options)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)
    for name, module in ACTIONS.items():
        action = actions.add_parser(name, help=module.SUMMARY, description=module.DESCRIPTION)
        module.add_arguments(action)


COMMAND = Command(
    "Brings a model to RunPod serverless, from a file deploy.yaml or from arguments: what it needs and costs, the "
    "endpoint and its first answer, what it has and costs now, and its end.",
    _add_arguments,
    run,
)
