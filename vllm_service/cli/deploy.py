"""`deploy plan`: a model on an endpoint of RunPod, from deploy.yaml or from arguments."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Protocol

from vllm_service.cli import deploy_plan
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
ACTIONS: Mapping[str, Action] = {"plan": deploy_plan}


def run(options: argparse.Namespace) -> int:
    """Returns the exit code of the action."""
    return ACTIONS[options.action].run(options)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)
    for name, module in ACTIONS.items():
        action = actions.add_parser(name, help=module.SUMMARY, description=module.DESCRIPTION)
        module.add_arguments(action)


COMMAND = Command(
    "Brings a model to RunPod serverless: what it needs and costs, from a file deploy.yaml or from arguments.",
    _add_arguments,
    run,
)
