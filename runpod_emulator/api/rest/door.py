"""What all REST resources share: the key, quotas, faults, bodies, pages, and errors as problem documents (RFC 9457)."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from runpod_emulator.account.account import Account
from runpod_emulator.api.rest.faults import applies, spoiled
from runpod_emulator.api.rest.queries import Query
from runpod_emulator.api.rest.quotas import Quotas
from runpod_emulator.errors import ApiError, BadRequest, NotFound, Unauthorized, Unprocessable
from runpod_emulator.http import Handler, read_body

#: The largest body; one with the longest environment that a process can get is smaller.
MOST_BODY_BYTES = 1024 * 1024
#: The items of one page of a list.
PAGE_ITEMS = 20
#: The wrong fields that one answer names, and the longest sentence about one.
MOST_ERRORS = 20
LONGEST_ERROR = 500
#: The headers of a response, under this name in its request: for handlers that send the head themselves.
QUOTA_HEADERS = web.RequestKey("quota_headers", dict[str, str])

Item = TypeVar("Item")
Body = TypeVar("Body", bound="StrictBody")


class StrictBody(BaseModel):
    """A request's body, or an object in it. Unknown fields and values of another type are refused."""

    model_config = ConfigDict(
        alias_generator=to_camel, extra="forbid", strict=True, frozen=True, hide_input_in_errors=True
    )

    #: The fields that may be null.
    nullable: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _refuse_null(cls, given: Any) -> Any:
        # The fields' types have None for what is left out.
        nulls = [name for name, value in given.items() if value is None] if isinstance(given, dict) else []
        if refused := sorted(set(nulls) - cls.nullable):
            raise PydanticCustomError("null", "{names}: null is not allowed", {"names": ", ".join(refused)})
        return given

    def values(self, *names: str) -> dict[str, Any]:
        """Returns those of these fields that the request has."""
        return {name: getattr(self, name) for name in names if name in self.model_fields_set}


class RestDoor:
    """Lets requests in to the REST resources of an account."""

    def __init__(self, account: Account, quotas: Mapping[str, int]) -> None:
        self._account = account
        self._quotas = Quotas(quotas, account.clock)

    def guarded(self, group: str, handler: Handler) -> Handler:
        """Returns the handler wrapped with faults, the check of the key, and the quota of its group."""

        async def answer(request: web.Request) -> web.StreamResponse:
            if broken := await self._fault():
                return broken
            headers: dict[str, str] = {}
            try:
                self._require_key(request)
                headers = request[QUOTA_HEADERS] = self._quotas.count(group)
                response = await self._answer(request, handler)
            except ApiError as error:
                response = problem(error)
            if not response.prepared:
                response.headers.update(headers)
            return response

        return answer

    def refuse_the_rest(self, router: web.UrlDispatcher, group: str) -> None:
        """Adds the answer for all other methods and paths of a group. It has to be added last."""
        router.add_route("*", f"/v2/{group}", self.guarded(group, _no_such_operation))
        router.add_route("*", f"/v2/{group}/{{tail:.*}}", self.guarded(group, _no_such_operation))

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        injected = self._account.first.state.injector.faults
        if injected.rest is None or not applies(injected, request):
            return await handler(request)
        return await spoiled(injected.rest, request, handler)

    async def _fault(self) -> web.StreamResponse | None:
        fault = self._account.first.state.injector.faults.management
        if fault == "error":
            return problem_response(500, "injected fault: management")
        if fault == "garbage":
            return web.Response(text="<html>200, and no answer</html>", content_type="text/html")
        if fault == "hang":
            await asyncio.Event().wait()  # aiohttp cancels this handler when the client disconnects
        return None

    def _require_key(self, request: web.Request) -> None:
        key = self._account.settings.api_key
        given = request.headers.get("Authorization", "")
        if key is not None and not hmac.compare_digest(given.encode(), f"Bearer {key}".encode()):
            raise Unauthorized("missing bearer token" if not given else "the bearer token is not valid")


async def read(request: web.Request, body: type[Body]) -> Body:
    """Returns the request's body. Raises BadRequest for one that is no JSON, TooLarge, and Unprocessable."""
    try:
        return body.model_validate_json(await read_body(request, MOST_BODY_BYTES) or b"{}")
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=False, include_input=False)[:MOST_ERRORS]
        problems = [_sentence(one["loc"], one["type"], one["msg"]) for one in wrong]
        if wrong[0]["type"] == "json_invalid":
            raise BadRequest(f"the body is not JSON: {problems[0]}") from None
        raise Unprocessable("Request validation failed.", problems) from None


def page(request: web.Request, name: str, items: Sequence[Item], show: Callable[[Item], Any]) -> web.Response:
    """Returns `{name: [...]}` with the page that begins at `?cursor=`; `nextCursor` if there are more items."""
    text = Query(request, ("cursor",)).text("cursor") or "0"
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) <= len(items)):
        raise BadRequest("cursor: expected the nextCursor of the page before")
    end = int(text) + PAGE_ITEMS
    document: dict[str, Any] = {name: [show(item) for item in items[int(text) : end]]}
    return web.json_response(document | ({"nextCursor": str(end)} if end < len(items) else {}))


def problem(error: ApiError) -> web.Response:
    """Returns an error as a problem document."""
    return problem_response(error.status, str(error), error.errors, error.headers)


def problem_response(
    status: int, detail: str, errors: Sequence[str] = (), headers: Mapping[str, str] | None = None
) -> web.Response:
    """Returns a problem document. errors: one sentence for each wrong field."""
    document: dict[str, Any] = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return web.json_response(
        document | ({"errors": list(errors)} if errors else {}),
        status=status,
        headers=headers,
        content_type="application/problem+json",
    )


def _sentence(place: tuple[int | str, ...], kind: str, text: str) -> str:
    path = "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    sentence = f"{path}: {'additional properties are not allowed' if kind == 'extra_forbidden' else text}"
    return sentence if len(sentence) <= LONGEST_ERROR else f"{sentence[:LONGEST_ERROR]}..."


async def _no_such_operation(request: web.Request) -> web.StreamResponse:
    raise NotFound(f"{request.method} {request.path}: there is no such operation")
