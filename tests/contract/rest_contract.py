"""Holds requests and answers of RunPod's REST v2 against the JSON Schemas in `schemas/`.

The schemas are written from RunPod's OpenAPI document 2.0.0 of 2026-08. Requests are strict: RunPod refuses a field or
a parameter that it does not know. Answers are lenient: RunPod may add fields.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn, Protocol
from urllib.parse import parse_qsl, urlsplit

from aiohttp import web
from aiohttp.typedefs import Middleware
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import ValidationError
from referencing import Registry, Resource

from runpod_emulator import Emulator, EndpointSettings, WorkerCommand
from runpod_emulator.http import Handler
from vllm_service.runpod.endpoint import Reply

SCHEMAS = Path(__file__).with_name("schemas")
#: The first words of REST v2's paths; below /v2/, everything else is an endpoint's job API.
RESOURCES = ("serverless", "templates", "network-volumes", "registries", "catalog", "billing")
JSON, PROBLEM, EVENTS = "application/json", "application/problem+json", "text/event-stream"
RATE_LIMIT = re.compile(r'^"\w+";r=\d+;t=\d+(, "\w+";r=\d+;t=\d+)*$')
RATE_LIMIT_POLICY = re.compile(r'^"\w+";q=\d+;w=\d+(, "\w+";q=\d+;w=\d+)*$')

FORMATS = FormatChecker(formats=())


class Send(Protocol):
    """A request of our own code, such as `vllm_service.runpod.endpoint.SendHttp`."""

    async def __call__(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, timeout_seconds: float
    ) -> Reply:
        """Sends one request and returns the whole answer."""
        ...


class ContractBroken(AssertionError):
    """A request or an answer that the published schema does not allow."""


@dataclass(frozen=True)
class Operation:
    """One published operation. Schemas are named `file#definition`."""

    method: str
    #: With `{id}` where a path has an identifier.
    path: str
    #: The status of its success.
    success: int
    #: The schema of the answer's body; None: the answer has none.
    answer: str | None
    #: The schema of the request's body; None: the request has none.
    body: str | None = None
    #: The schema of the query, an object of texts.
    query: str = "common#Nothing"

    def matches(self, method: str, path: str) -> bool:
        """Returns whether a request belongs to this operation."""
        return method == self.method and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", self.path), path) is not None


def _crud(path: str, schemas: str, name: str, *, updates: bool = True) -> Iterable[Operation]:
    """Yields the operations that most resources have."""
    yield Operation("GET", path, 200, f"{schemas}#List", query="common#Page")
    yield Operation("POST", path, 201, f"{schemas}#{name}", f"{schemas}#Create")
    yield Operation("GET", path + "/{id}", 200, f"{schemas}#{name}")
    if updates:
        yield Operation("PATCH", path + "/{id}", 200, f"{schemas}#{name}", f"{schemas}#Update")
    yield Operation("DELETE", path + "/{id}", 204, None)


OPERATIONS = (
    *_crud("/v2/serverless", "serverless", "Endpoint"),
    Operation("GET", "/v2/serverless/{id}/workers", 200, "serverless#Workers"),
    Operation("GET", "/v2/serverless/{id}/releases", 200, "serverless#Releases"),
    Operation(
        "GET", "/v2/serverless/{id}/workers/{worker}/logs", 200, "serverless#LogEvent", query="serverless#LogsQuery"
    ),
    *_crud("/v2/templates", "templates", "Template"),
    *_crud("/v2/network-volumes", "network_volumes", "NetworkVolume"),
    *_crud("/v2/registries", "registries", "Registry", updates=False),
    Operation("GET", "/v2/catalog/gpus", 200, "catalog#Gpus", query="catalog#GpusQuery"),
    Operation("GET", "/v2/catalog/gpus/{id}", 200, "catalog#GpuType", query="catalog#GpusQuery"),
    Operation("GET", "/v2/catalog/datacenters", 200, "catalog#DataCenters", query="catalog#DataCentersQuery"),
    Operation("GET", "/v2/catalog/datacenters/{id}", 200, "catalog#DataCenter", query="catalog#DataCenterQuery"),
    Operation("GET", "/v2/billing/serverless", 200, "billing#Serverless", query="billing#ServerlessQuery"),
    Operation("GET", "/v2/billing/network-volumes", 200, "billing#NetworkVolumes", query="billing#NetworkVolumesQuery"),
)


def is_rest(path: str) -> bool:
    """Returns whether a path is REST v2's; other paths are not held against anything."""
    return path.startswith("/v2/") and path.split("/")[2] in RESOURCES


def operation_of(method: str, path: str) -> Operation:
    """Returns the published operation of a request. Raises ContractBroken where there is none."""
    found = next((operation for operation in OPERATIONS if operation.matches(method, path)), None)
    if found is None:
        raise ContractBroken(f"{method} {path}: no such operation is published")
    return found


def checked(send: Send) -> Send:
    """Returns the send wrapped so that each request of REST v2, and its answer, is held against the contract."""

    async def send_checked(
        method: str, url: str, headers: Mapping[str, str], body: bytes, timeout_seconds: float
    ) -> Reply:
        parts = urlsplit(url)
        if not is_rest(parts.path):
            return await send(method, url, headers, body, timeout_seconds)
        check_request(method, parts.path, parts.query, body)
        reply = await send(method, url, headers, body, timeout_seconds)
        check_answer(method, parts.path, reply.status, reply.body, reply.headers)
        return reply

    return send_checked


class Recorded:
    """An aiohttp middleware that holds an emulator's exchanges of REST v2 against the contract.

    ours: every request comes from our own code, so that a wrong one breaks the contract even if it is refused.
    """

    def __init__(self, *, ours: bool = False) -> None:
        self._ours = ours
        #: Returns whether a fault spoils answers at this moment: those break the contract on purpose.
        self.are_spoiled: Callable[[], bool] = lambda: False
        #: Every exchange, such as `GET /v2/serverless 200`.
        self.exchanges: list[str] = []
        #: What broke the contract.
        self.broken: list[str] = []

    def middleware(self) -> Middleware:
        """Returns the middleware for `Emulator(middlewares=...)`."""

        @web.middleware
        async def record(request: web.Request, handler: Handler) -> web.StreamResponse:
            if not is_rest(request.path):
                return await handler(request)
            wrong = _broken_by(check_request, request.method, request.path, request.query_string, await request.read())
            response = await handler(request)
            self.exchanges.append(f"{request.method} {request.path} {response.status}")
            if wrong and (self._ours or response.status < 400):
                self.broken.append(f"answered {response.status}: {wrong}")
            if isinstance(response, web.Response) and not self.are_spoiled():
                body = response.body if isinstance(response.body, bytes) else b""
                self._check(request, response.status, body, response.headers)
            return response

        return record

    def _check(self, request: web.Request, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        known = any(operation.matches(request.method, request.path) for operation in OPERATIONS)
        check = check_answer if known else check_refusal
        if wrong := _broken_by(check, request.method, request.path, status, body, headers):
            self.broken.append(wrong)


@asynccontextmanager
async def checked_emulator(
    settings: EndpointSettings | None = None,
    workers: WorkerCommand | None = None,
    *,
    ours: bool = False,
    **options: Any,
) -> AsyncIterator[tuple[Emulator, Recorded]]:
    """Runs an emulator without REST quotas, and raises ContractBroken at its end for what broke the contract."""
    recorded = Recorded(ours=ours)
    options = {"rest_quotas": {}, "middlewares": [recorded.middleware()]} | options
    emulator = Emulator(settings, workers, **options)
    recorded.are_spoiled = lambda: _has_rest_fault(emulator)
    async with emulator:
        yield emulator, recorded
    if recorded.broken:
        raise ContractBroken("\n".join(recorded.broken))


def _has_rest_fault(emulator: Emulator) -> bool:
    faults = emulator.endpoint.injector.faults
    return faults.rest is not None or faults.management is not None


def check_request(method: str, path: str, query: str, body: bytes) -> None:
    """Raises ContractBroken for a request that RunPod would refuse by its schema.

    query: as in the URL, without the question mark.
    """
    operation = operation_of(method, path)
    where = f"{method} {path}"
    pairs = parse_qsl(query, keep_blank_values=True)
    if len(dict(pairs)) != len(pairs):
        raise ContractBroken(f"{where}: a parameter is repeated in {query!r}")
    _validate(operation.query, dict(pairs), f"{where}: query")
    if operation.body is not None:
        _validate(operation.body, _parse(body, f"{where}: body"), f"{where}: body")
    elif body:
        raise ContractBroken(f"{where}: a body where none is published")


def check_answer(method: str, path: str, status: int, body: bytes, headers: Mapping[str, str]) -> None:
    """Raises ContractBroken for an answer that is neither the operation's success nor a problem of RFC 9457."""
    operation = operation_of(method, path)
    where = f"{method} {path}: answer {status}"
    names = {name.lower(): value for name, value in headers.items()}
    _check_limits(status, names, where)
    if status != operation.success:
        _check_problem(status, body, names, where)
    elif operation.answer is None:
        if body:
            raise ContractBroken(f"{where}: has a body")
    elif operation.answer == "serverless#LogEvent":
        _expect_type(EVENTS, names, where)
        check_events(body.decode(), where)
    else:
        _expect_type(JSON, names, where)
        _validate(operation.answer, _parse(body, where), where)


def check_refusal(method: str, path: str, status: int, body: bytes, headers: Mapping[str, str]) -> None:
    """Raises ContractBroken for an answer that is no problem of RFC 9457: to what is no published operation."""
    _check_problem(status, body, {name.lower(): value for name, value in headers.items()}, f"{method} {path}: {status}")


def check_events(text: str, where: str = "events") -> int:
    """Returns how many log events a text holds. Raises ContractBroken for one that is not as published."""
    events = [block for block in text.split("\n\n") if "data:" in block]
    for block in events:
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        document = _parse(fields["data"].encode(), where)
        _validate("serverless#LogEvent", document, where)
        if fields.get("id") != document["ts"]:
            raise ContractBroken(f"{where}: the event's id {fields.get('id')!r} is not its ts {document['ts']!r}")
    return len(events)


def _broken_by(check: Callable[..., None], *arguments: object) -> str | None:
    """Returns what breaks the contract, or None."""
    try:
        check(*arguments)
    except ContractBroken as broken:
        return str(broken)
    return None


def _check_problem(status: int, body: bytes, headers: Mapping[str, str], where: str) -> None:
    if status < 400:
        raise ContractBroken(f"{where}: this status is not published")
    _expect_type(PROBLEM, headers, where)
    document = _parse(body, where)
    _validate("common#Problem", document, where)
    if document["status"] != status:
        raise ContractBroken(f"{where}: the problem's status is {document['status']}")


def _check_limits(status: int, headers: Mapping[str, str], where: str) -> None:
    for name, pattern in (("ratelimit", RATE_LIMIT), ("ratelimit-policy", RATE_LIMIT_POLICY)):
        if name in headers and not pattern.fullmatch(headers[name]):
            raise ContractBroken(f"{where}: {name} is {headers[name]!r}")
    if status == 429 and not re.fullmatch(r"[1-9]\d*", headers.get("retry-after", "")):
        raise ContractBroken(f"{where}: Retry-After is {headers.get('retry-after')!r}")


def _expect_type(expected: str, headers: Mapping[str, str], where: str) -> None:
    found = headers.get("content-type", "").partition(";")[0].strip()
    if found != expected:
        raise ContractBroken(f"{where}: Content-Type is {found!r}, expected {expected}")


def _parse(body: bytes, where: str) -> Any:
    try:
        return json.loads(body, parse_float=Decimal, parse_constant=_no_number)
    except ValueError as error:
        raise ContractBroken(f"{where}: no JSON: {error}") from None


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _validate(schema: str, document: object, where: str) -> None:
    errors = sorted(validator(schema).iter_errors(document), key=lambda error: error.json_path)
    if errors:
        raise ContractBroken(f"{where}: " + "; ".join(_plain(error) for error in errors[:5]))


def _plain(error: ValidationError) -> str:
    """Returns place and rule. Values are left out, because an environment may hold a secret."""
    if error.validator in ("required", "additionalProperties", "unevaluatedProperties"):
        return f"{error.json_path}: {error.message}"
    return f"{error.json_path} breaks {error.validator} {error.validator_value}"


@functools.cache
def validator(schema: str) -> Draft202012Validator:
    """Returns the validator of `file#definition`."""
    file, _, definition = schema.partition("#")
    return Draft202012Validator(
        {"$ref": f"{file}.json#/$defs/{definition}"}, registry=_registry(), format_checker=FORMATS
    )


def schema_files() -> dict[str, Any]:
    """Returns every schema file by its name."""
    return {path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(SCHEMAS.glob("*.json"))}


@functools.cache
def _registry() -> Registry[Any]:
    return Registry().with_resources(
        (name, Resource.from_contents(document)) for name, document in schema_files().items()
    )


@FORMATS.checks("date-time")
def _is_time(value: object) -> bool:
    """Returns whether a text is a time of RFC 3339, with its offset."""
    if not isinstance(value, str):
        return True
    if not re.fullmatch(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", value):
        return False
    try:
        datetime.fromisoformat(value.upper())
    except ValueError:
        return False
    return True


@FORMATS.checks("uri")
def _is_uri(value: object) -> bool:
    return not isinstance(value, str) or re.fullmatch(r"https?://[^\s/]+\S*", value) is not None
