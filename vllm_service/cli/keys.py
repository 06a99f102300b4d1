"""`keys create|list|revoke|limits`: callers' keys and the limits of their organisations."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation

from rich.table import Table

from vllm_service.cli.command import Command
from vllm_service.cli.storage_options import add_location, wide_console, with_database
from vllm_service.domain.keys import REQUESTS_PER_MINUTE, OrganisationLimits, Tier
from vllm_service.domain.money import picousd, to_usd
from vllm_service.settings import ServiceSettings
from vllm_service.storage.keys.sql import KeyStore
from vllm_service.storage.sql.database import Database

_COUNTS = ("tokens_per_day", "requests_per_day", "tokens_per_month")


def run(options: argparse.Namespace) -> int:
    """0, or 1 for a key that does not exist or a database that does not answer."""

    async def work(database: Database, settings: ServiceSettings) -> int:
        return await _COMMANDS[options.command](KeyStore(database, settings.key_pepper.encode()), options)

    return with_database(options, work)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="command", required=True)
    create = commands.add_parser("create", help="make a key; its secret is printed once, to standard output")
    create.add_argument("organisation")
    create.add_argument("--tier", type=Tier, choices=list(Tier), default=Tier.DEVELOPMENT, metavar="|".join(Tier))
    create.add_argument("--no-annotate", action="store_true", help="answers carry no cost_info and performance_info")
    create.add_argument("--strategy", help="the routing strategy of this key")
    create.add_argument("--note", help="for people: who has it, what for")
    listing = commands.add_parser("list", help="all keys, or one organisation's")
    listing.add_argument("organisation", nargs="?")
    revoke = commands.add_parser("revoke", help="gateways refuse it within seconds")
    revoke.add_argument("id", help="the key's id, as `list` shows it")
    limits = commands.add_parser("limits", help="show an organisation's limits, or set those that are given")
    limits.add_argument("organisation")
    for name in _COUNTS:
        limits.add_argument(f"--{name.replace('_', '-')}", type=_count, metavar="N|none")
    limits.add_argument("--usd-per-month", type=_dollars, metavar="USD|none")
    for command in (create, listing, revoke, limits):
        add_location(command)


async def _create(keys: KeyStore, options: argparse.Namespace) -> int:
    key_id, secret = await keys.create(
        options.organisation,
        options.tier,
        annotate=not options.no_annotate,
        strategy=options.strategy,
        note=options.note,
    )
    sys.stderr.write(
        f"Key {key_id} of {options.organisation}, {REQUESTS_PER_MINUTE[options.tier]:,} requests a minute. "
        "This is its only appearance:\n"
    )
    sys.stdout.write(f"{secret}\n")
    return 0


async def _list(keys: KeyStore, options: argparse.Namespace) -> int:
    table = Table("id", "organisation", "tier", "strategy", "annotate", "note", "made", "revoked")
    for stored in await keys.list(options.organisation):
        key = stored.key
        words = (key.id, key.organisation, key.tier.value, key.strategy or "", "yes" if key.annotate else "no")
        table.add_row(*words, stored.note or "", _moment(stored.created_at_us), _moment(stored.revoked_at_us))
    wide_console().print(table)
    return 0


async def _revoke(keys: KeyStore, options: argparse.Namespace) -> int:
    if await keys.revoke(options.id):
        return 0
    sys.stderr.write(f"There is no key {options.id}. `python -m vllm_service keys list` shows all.\n")
    return 1


async def _limits(keys: KeyStore, options: argparse.Namespace) -> int:
    limits = await keys.limits(options.organisation)
    asked = {name: value for name in _COUNTS if (value := getattr(options, name)) is not None}
    if options.usd_per_month is not None:
        asked["picousd_per_month"] = options.usd_per_month
    if asked:
        changes = {name: None if value == _NONE else value for name, value in asked.items()}
        limits = dataclasses.replace(limits, **changes)
        await keys.set_limits(options.organisation, limits)
    _show(options.organisation, limits)
    return 0


def _show(organisation: str, limits: OrganisationLimits) -> None:
    table = Table("limit", organisation)
    for name in _COUNTS:
        value = getattr(limits, name)
        table.add_row(name.replace("_", " "), "none" if value is None else f"{value:,}")
    dollars = limits.picousd_per_month
    table.add_row("USD per month", "none" if dollars is None else f"{to_usd(dollars):,}")
    wide_console().print(table)


_NONE = -1


def _count(text: str) -> int:
    if text == "none":
        return _NONE
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number nor none")
    return int(text)


def _dollars(text: str) -> int:
    if text == "none":
        return _NONE
    try:
        amount = picousd(Decimal(text))
    except (InvalidOperation, ValueError, OverflowError):
        amount = _NONE
    if not 0 <= amount < 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is neither an amount of dollars nor none")
    return amount


def _moment(microseconds: int | None) -> str:
    if microseconds is None:
        return ""
    return datetime.fromtimestamp(microseconds / 1_000_000, UTC).strftime("%Y-%m-%d %H:%M UTC")


_COMMANDS = {"create": _create, "list": _list, "revoke": _revoke, "limits": _limits}
COMMAND = Command("Callers' keys and the limits of their organisations.", _add_arguments, run)
