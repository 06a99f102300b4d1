"""JSON whose Decimals are numbers with all their digits: a float would round an amount of money."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from aiohttp import web


def exact_text(value: Any) -> str:
    """Returns a value as JSON. A Decimal becomes a number without an exponent, such as 0.00019."""
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(name)}: {exact_text(member)}" for name, member in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(exact_text, value)) + "]"
    return json.dumps(value)


def exact_response(document: Mapping[str, Any]) -> web.Response:
    """Returns a response with the document, whose amounts are exact."""
    return web.Response(text=exact_text(document), content_type="application/json")
