"""`keys create|list|role|revoke|limits`: makes and revokes keys, gives them roles, and sets organisations' limits."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from vllm_service.cli.argument_types import dollars, name, one_of, strategy, whole_number
from vllm_service.cli.command import Command
from vllm_service.cli.json_option import add_json, write_json
from vllm_service.cli.storage_options import add_location, wide_console, with_database
from vllm_service.domain.keys import CONCURRENT_REQUESTS, REQUESTS_PER_MINUTE, OrganisationLimits, Tier
from vllm_service.domain.money import to_usd
from vllm_service.domain.roles import Role
from vllm_service.domain.strategies import RoutingStrategy
from vllm_service.domain.timestamps import rfc3339
from vllm_service.settings import ServiceSettings
from vllm_service.storage.keys.sql import KeyStore, StoredKey
from vllm_service.storage.sql.database import Database

#: Of the option and of the argument.
_ROLE: dict[str, Any] = {
    "type": one_of(role.value for role in Role),
    "choices": [role.value for role in Role],  # for the shell's completion
    "metavar": "ROLE",
}
_ROLES = (
    "what the key may see: its own requests (caller), also all figures and prices (viewer), also the addresses of "
    "providers (operator), everything (admin)"
)
_MEANING = {
    "tokens_per_day": "tokens per day, in UTC",
    "requests_per_day": "requests per day, in UTC",
    "tokens_per_month": "tokens per month, in UTC",
    "concurrent_requests": "requests under way at once; none: its keys have no such limit either",
}
_COUNTS = tuple(_MEANING)


def run(options: argparse.Namespace) -> int:
    """Returns 0, or 1 for a key that does not exist and a database that cannot be used."""

    async def work(database: Database, settings: ServiceSettings) -> int:
        return await _COMMANDS[options.command](KeyStore(database, settings.key_pepper.encode()), options)

    # Only `create`, and `limits` with a limit to set, have something to put into a new database.
    makes = options.command == "create" or (options.command == "limits" and _changes(options))
    return with_database(options, work, must_exist=not makes)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(title="actions", dest="command", metavar="ACTION", required=True)
    create = commands.add_parser("create", help="make a key; its secret is printed once, to standard output")
    create.add_argument("organisation", type=name, help="the organisation whose limits and bill the key counts for")
    create.add_argument(
        "--tier",
        type=one_of(tier.value for tier in Tier),
        choices=[tier.value for tier in Tier],  # for the shell's completion
        metavar="TIER",
        default=Tier.DEVELOPMENT.value,
        help="how many requests it may make in a minute, and at once: "
        + ", ".join(f"{REQUESTS_PER_MINUTE[tier]:,} and {CONCURRENT_REQUESTS[tier]:,} ({tier.value})" for tier in Tier),
    )
    create.add_argument(
        "--no-annotate", action="store_true", help="leave cost_info and performance_info out of answers"
    )
    create.add_argument(
        "--strategy",
        type=strategy,
        choices=[name.value for name in RoutingStrategy],
        metavar="NAME",
        help=f"the key's routing strategy, one of {', '.join(RoutingStrategy)} (default: the model's)",
    )
    create.add_argument("--role", **_ROLE, default=Role.CALLER.value, help=f"{_ROLES} (default: %(default)s)")
    create.add_argument("--note", help="a text for `list`, such as the key's owner and purpose")
    listing = commands.add_parser("list", help="list all keys, or one organisation's")
    listing.add_argument("organisation", type=name, nargs="?", help="list only this organisation's keys")
    role = commands.add_parser("role", help="give a key another role; gateways apply it within seconds")
    role.add_argument("id", help="the key's id, as `list` shows it")
    role.add_argument("role", **_ROLE, help=_ROLES)
    revoke = commands.add_parser("revoke", help="revoke a key; gateways refuse it within seconds")
    revoke.add_argument("id", help="the key's id, as `list` shows it")
    limits = commands.add_parser("limits", help="show an organisation's limits, or set the given ones")
    limits.add_argument("organisation", type=name, help="the organisation that has the limits")
    for limit in _COUNTS:
        limits.add_argument(f"--{limit.replace('_', '-')}", type=_limit, metavar="N|none", help=_MEANING[limit])
    limits.add_argument("--usd-per-month", type=_usd_limit, metavar="USD|none", help="US dollars per month, in UTC")
    for command in (create, listing, role, revoke, limits):
        add_location(command)
        add_json(command)


async def _create(keys: KeyStore, options: argparse.Namespace) -> int:
    key_id, secret = await keys.create(
        options.organisation,
        Tier(options.tier),
        annotate=not options.no_annotate,
        strategy=options.strategy,
        note=options.note,
        role=Role(options.role),
    )
    per_minute = REQUESTS_PER_MINUTE[Tier(options.tier)]
    if options.json:
        write_json(
            {
                "id": key_id,
                "secret": secret,
                "organisation": options.organisation,
                "tier": options.tier,
                "role": options.role,
            }
        )
        return 0
    sys.stderr.write(
        f"Key {key_id} of {options.organisation}, role {options.role}, {per_minute:,} requests a minute. "
        "Keep the secret now, it is not shown again:\n"
    )
    sys.stdout.write(f"{secret}\n")
    return 0


async def _list(keys: KeyStore, options: argparse.Namespace) -> int:
    if options.json:
        write_json({"keys": [_document(stored) for stored in await keys.list(options.organisation)]})
        return 0
    table = Table("id", "organisation", "role", "tier", "strategy", "annotate", "note", "made", "revoked")
    for stored in await keys.list(options.organisation):
        key = stored.key
        words = (
            key.id,
            key.organisation,
            key.role.value,
            key.tier.value,
            key.strategy or "",
            "yes" if key.annotate else "no",
        )
        table.add_row(*words, stored.note or "", _shown_time(stored.created_at_us), _shown_time(stored.revoked_at_us))
    wide_console().print(table)
    return 0


async def _revoke(keys: KeyStore, options: argparse.Namespace) -> int:
    if await keys.revoke(options.id):
        if options.json:
            write_json({"id": options.id, "revoked": True})
        return 0
    return _no_such_key(options.id)


async def _role(keys: KeyStore, options: argparse.Namespace) -> int:
    if await keys.set_role(options.id, Role(options.role)):
        if options.json:
            write_json({"id": options.id, "role": options.role})
        return 0
    return _no_such_key(options.id)


def _no_such_key(key_id: str) -> int:
    sys.stderr.write(f"There is no key {key_id}. `keys list` shows all keys.\n")
    return 1


async def _limits(keys: KeyStore, options: argparse.Namespace) -> int:
    limits = await keys.limits(options.organisation)
    if changed := _changes(options):
        changes = {name: None if value == _NONE else value for name, value in changed.items()}
        limits = dataclasses.replace(limits, **changes)
        await keys.set_limits(options.organisation, limits)
    if options.json:
        write_json({"organisation": options.organisation, "limits": _limits_document(limits)})
    else:
        _show(options.organisation, limits)
    return 0


def _changes(options: argparse.Namespace) -> dict[str, int]:
    """Returns the limits that are given."""
    changed = {name: value for name in _COUNTS if (value := getattr(options, name)) is not None}
    if options.usd_per_month is not None:
        changed["picousd_per_month"] = options.usd_per_month
    return changed


def _document(stored: StoredKey) -> dict[str, Any]:
    key = stored.key
    return {
        "id": key.id,
        "organisation": key.organisation,
        "role": key.role.value,
        "tier": key.tier.value,
        "strategy": key.strategy,
        "annotate": key.annotate,
        "note": stored.note,
        "created_at": _json_time(stored.created_at_us),
        "revoked_at": _json_time(stored.revoked_at_us),
    }


def _limits_document(limits: OrganisationLimits) -> dict[str, Any]:
    """Returns the limits; null is no limit."""
    return {name: getattr(limits, name) for name in _COUNTS} | {"usd_per_month": to_usd(limits.picousd_per_month)}


def _json_time(microseconds: int | None) -> str | None:
    return None if microseconds is None else rfc3339(microseconds / 1_000_000)


def _show(organisation: str, limits: OrganisationLimits) -> None:
    table = Table("limit", organisation)
    for limit in _COUNTS:
        value = getattr(limits, limit)
        table.add_row(limit.replace("_", " "), "none" if value is None else f"{value:,}")
    dollars = limits.picousd_per_month
    table.add_row("USD per month", "none" if dollars is None else f"{to_usd(dollars):,}")
    wide_console().print(table)


# "none" on the command line. Python's None means there that the limit is not given, and stays as it is.
_NONE = -1


def _limit(text: str) -> int:
    return _NONE if text == "none" else whole_number(text)


def _usd_limit(text: str) -> int:
    return _NONE if text == "none" else dollars(text)


def _shown_time(microseconds: int | None) -> str:
    if microseconds is None:
        return ""
    return datetime.fromtimestamp(microseconds / 1_000_000, UTC).strftime("%Y-%m-%d %H:%M UTC")


_COMMANDS = {"create": _create, "list": _list, "role": _role, "revoke": _revoke, "limits": _limits}
COMMAND = Command(
    "Makes and revokes keys, gives them roles, and sets the limits of their organisations.", _add_arguments, run
)
