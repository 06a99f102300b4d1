"""`deploy destroy`: deletes what a deployment has at RunPod, after it has shown it and asked."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console

from vllm_service.cli.deploy_apply_report import amount
from vllm_service.cli.deploy_session import (
    Session,
    add_name_arguments,
    names_of,
    open_session,
    run_concealed,
    spec_named,
)
from vllm_service.cli.exit_codes import FAILED
from vllm_service.cli.json_option import add_json, write_json
from vllm_service.deployment.destruction import Doomed, destroy, find_doomed
from vllm_service.deployment.existing import Existing, Json, Kind, Names, id_of
from vllm_service.deployment.holdings import Holdings, holdings_of
from vllm_service.deployment.prices import shipped_prices
from vllm_service.deployment.settings import DeploySettings
from vllm_service.errors import ConfigurationError, ServiceError

SUMMARY = "delete endpoint and template, and with --volumes the network volume"
DESCRIPTION = (
    "Lists what goes and asks, then deletes the endpoint with its workers and jobs, and the template. The network "
    "volume stays, and stays billed, without --volumes. A run that ended half-way can be repeated; where nothing is "
    "left it does nothing."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the action."""
    add_name_arguments(parser)
    add_json(parser)
    parser.add_argument("--volumes", action="store_true", help="delete the network volume with everything on it, too")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run(
    options: argparse.Namespace, environment: Mapping[str, str] | None = None, progress: Console | None = None
) -> int:
    """Returns 0, or 1 where the question was not answered with yes. Raises ServiceError.

    environment: this process's by default.
    """
    settings = DeploySettings.from_environment(environment)
    spec = spec_named(options)
    session = open_session(settings, spec, progress)
    return run_concealed(session, lambda: _destroy(session, names_of(options, spec), options))


async def _destroy(session: Session, names: Names, options: argparse.Namespace) -> int:
    deleted: list[dict[str, str]] = []
    async with session.connected() as (api, _):
        existing, doomed = await find_doomed(api, names, with_volumes=options.volumes)
        session.learn(existing)
        for line in _lines(names, doomed):
            session.say(line)
        if doomed.going and not options.yes and not _is_agreed(session):
            session.say("Nothing was deleted.")
            return FAILED

        def on_deleted(kind: Kind, found: str) -> None:
            deleted.append({"kind": kind.value, "id": found})
            session.say(f"deleted: {kind} {found}")

        try:
            await destroy(api, doomed, on_deleted)
        except ServiceError as error:
            left = [f"{kind} {id_of(one)}" for kind, one in doomed.going if id_of(one) not in _ids(deleted)]
            raise ConfigurationError(f"{error.message} Not deleted: {', '.join(left)}. Run this again.") from None
    if options.json:
        write_json(session.concealer.document(_document(names, deleted, existing, doomed)))
    return 0


def _is_agreed(session: Session) -> bool:
    """Asks on standard error, and reads the answer. Raises ConfigurationError where nobody can answer."""
    if not sys.stdin.isatty():
        raise ConfigurationError("nothing was deleted: there is no terminal to ask at; say --yes")
    session.progress.print("Delete this? It cannot be undone. [yes/no] ", markup=False, end="")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _lines(names: Names, doomed: Doomed) -> Iterator[str]:
    if not doomed.going:
        yield f"Of the deployment {names.deployment!r} there is nothing to delete."
    for kind, document in doomed.going:
        what = " with everything on it" if kind is Kind.VOLUME else ""
        yield f"goes: {kind} {document.get('name')} ({id_of(document)}){what}"
    for volume, reason in doomed.staying:
        yield f"stays, billed: {Kind.VOLUME} {volume.get('name')} ({id_of(volume)}): {reason}"


def _document(names: Names, deleted: list[dict[str, str]], existing: Existing, doomed: Doomed) -> dict[str, Any]:
    left = _left(existing, [volume for volume, _ in doomed.staying])
    return {
        "name": names.deployment,
        "deleted": deleted,
        "left": [
            {"kind": Kind.VOLUME.value, "id": id_of(volume), "reason": reason} for volume, reason in doomed.staying
        ],
        "usd_per_hour": amount(left.usd_per_hour),
    }


def _left(existing: Existing, volumes: list[Json]) -> Holdings:
    nothing: tuple[Json, ...] = ()
    only = existing.having(Kind.ENDPOINT, nothing).having(Kind.TEMPLATE, nothing).having(Kind.VOLUME, tuple(volumes))
    return holdings_of(only, {}, shipped_prices())


def _ids(deleted: list[dict[str, str]]) -> set[str]:
    return {entry["id"] for entry in deleted}
