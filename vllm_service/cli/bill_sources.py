"""The bills that a command's arguments name: files, standard input, URLs, and RunPod's REST API v2."""

from __future__ import annotations

import argparse
import asyncio
import time
from datetime import UTC, date, datetime, timedelta
from urllib.parse import urlsplit

from vllm_service.accounting.bill_records import Bill, joined, parse_bill
from vllm_service.accounting.bills import read_bill
from vllm_service.domain.urls import is_plain_beyond_this_machine
from vllm_service.errors import ConfigurationError
from vllm_service.runpod.billing import BillQuery, fetch_bill
from vllm_service.runpod.command_http import open_send
from vllm_service.runpod.rest_api import RestApi

#: The variable with the key that is sent to a bill's URL.
KEY_VARIABLE = "RUNPOD_API_KEY"
#: RunPod answers with so many days itself where it is asked for none (schema of 2026-08).
DAYS = 30


def add_bills(parser: argparse.ArgumentParser) -> None:
    """Adds --bill, --endpoint and --volume."""
    parser.add_argument(
        "--bill",
        required=True,
        action="append",
        metavar="FILE|URL",
        help="RunPod's bill, or the emulator's; - reads stdin; of a URL without a path (https://api.runpod.io) REST v2 "
        f"is asked for the endpoint and the volumes; a request to a URL has the key in {KEY_VARIABLE}; may be repeated",
    )
    parser.add_argument("--endpoint", metavar="ID", help="only this endpoint's lines of the bill")
    parser.add_argument(
        "--volume",
        action="append",
        default=[],
        metavar="ID",
        help="of network volumes' lines only this one's; may be repeated",
    )


def bill_named(options: argparse.Namespace, key: str | None) -> Bill:
    """Returns the bills as one, with the lines that were asked for. Raises ServiceError, which never holds the key.

    options.since and options.until: days, or None. Of REST v2 only these days are asked for.
    """
    now = time.time()
    bills = [_bill(source, options, key, now) for source in options.bill]
    return joined(bills).only(options.endpoint, options.volume)


def _bill(source: str, options: argparse.Namespace, key: str | None, now: float) -> Bill:
    if source.startswith(("http://", "https://")) and urlsplit(source).path in ("", "/"):
        return asyncio.run(_of_rest(source, _query(options, datetime.fromtimestamp(now, UTC).date()), key))
    return parse_bill(read_bill(source, key), now_us=round(now * 1_000_000))


def _query(options: argparse.Namespace, today: date) -> BillQuery:
    last = min(options.until or today, today)
    first = options.since or last - timedelta(days=DAYS - 1)
    try:
        return BillQuery(first, last, options.endpoint, tuple(options.volume))
    except ValueError as error:
        raise ConfigurationError(f"{error}: correct --since and --until.") from None


async def _of_rest(origin: str, query: BillQuery, key: str | None) -> Bill:
    if key is not None and is_plain_beyond_this_machine(origin):
        raise ConfigurationError("the billing API's URL is http: the key would be readable on the way; use https")
    async with open_send() as send:
        return await fetch_bill(RestApi(origin, key, send), query)
