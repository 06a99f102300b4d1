"""One billed request to a provider: its injected fault, its reply, its delivery, its charge."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Iterable

from aiohttp import web

from runpod_emulator.errors import ProviderError
from runpod_emulator.hosted import chat, responses
from runpod_emulator.hosted.chat import Event
from runpod_emulator.hosted.delivery import CutOff, Delivery, end_connection
from runpod_emulator.hosted.faults import HostedInjector, InjectedFault
from runpod_emulator.hosted.meter import BillLine, Meter
from runpod_emulator.hosted.reply import Json, Reply, make_reply
from runpod_emulator.hosted.settings import HostedModel, HostedSettings
from runpod_emulator.http import read_object

#: For each operation: the prefix of its ids, the function for its document, the function for its events.
SHAPES = {
    "chat.completions": ("chatcmpl", chat.chat_document, chat.chat_events),
    "completions": ("cmpl", chat.completion_document, chat.completion_events),
    "responses": ("resp", responses.response_document, responses.response_events),
}
EMBEDDINGS = "embeddings"
OPERATIONS = (*SHAPES, EMBEDDINGS)
#: For each fault that is an error response: HTTP status, message, and OpenAI's `type` and `code`.
ERRORS = {
    "error_500": (500, "The server had an error while processing your request.", "server_error", None),
    "error_503": (503, "The engine is currently overloaded, please try again later.", "server_error", None),
    "down": (503, "The provider is down.", "server_error", None),
    "rate_limit": (429, "Rate limit reached for requests.", "requests", "rate_limit_exceeded"),
    "storm": (429, "Rate limit reached for requests.", "requests", "rate_limit_exceeded"),
}


class Calls:
    """Answers the operations that are billed."""

    def __init__(
        self, settings: HostedSettings, meter: Meter, injector: HostedInjector, clock: Callable[[], float]
    ) -> None:
        self._settings = settings
        self._meter = meter
        self._injector = injector
        self._clock = clock
        self._models = {model.id: model for model in settings.models}
        self._ids = itertools.count(1)

    async def answer(self, operation: str, request: web.Request) -> web.StreamResponse:
        """Sends the operation's answer, and charges for it. Raises ApiError."""
        # The fault is drawn before the body is read: requests that arrive in order get their faults in order.
        fault = self._injector.next(self._clock())
        body = await read_object(request, self._settings.max_body_bytes)
        self._meter.counts["bytes_in"] += len(await request.read())  # aiohttp keeps the body after the first read
        if (aborted := await apply_fault(request, fault, self._meter)) is not None:
            return aborted
        reply, document, events = self._prepare(operation, body)
        delivery = Delivery(request, self._settings, self._meter, fault)
        headers = {"x-request-id": reply.id}
        outcome = "cancelled"
        try:
            if events is not None:
                response = await delivery.stream(events, headers)
            else:
                text = json.dumps(document, ensure_ascii=False).encode()
                response = await delivery.plain(text, reply.completion_tokens, headers)
            outcome = "completed"
            return response
        except CutOff:
            outcome = "broken"
            return web.Response()  # never sent: the connection is closed
        finally:
            # A cancellation (the client disconnected) is charged too. Garbage is no answer, so it costs nothing.
            if fault.kind != "garbage":
                self._charge(request, operation, reply, delivery.generated, outcome)

    def model(self, name: object) -> HostedModel:
        """Returns a model by its id. Raises ProviderError for one that is not served."""
        if isinstance(name, str) and name in self._models:
            return self._models[name]
        message = f"The model `{name}` does not exist or you do not have access to it."
        raise ProviderError(404, message, "model_not_found", param="model")

    def _prepare(self, operation: str, body: Json) -> tuple[Reply, Json | None, Iterable[Event] | None]:
        model = self.model(body.get("model"))
        if operation == EMBEDDINGS:
            reply_id = f"embd-{self._settings.name}-{next(self._ids)}"
            document, tokens = responses.embeddings_document(body, model)
            if self._settings.usage_place == "nowhere":
                del document["usage"]
            plain = HostedModel(id=model.id, input_usd=model.input_usd)
            return Reply(reply_id, plain, (), tokens, 0, self._settings, sends_usage=True), document, None
        prefix, make_document, make_events = SHAPES[operation]
        if operation == "responses":
            body = {**body, "n": 1}
        reply = make_reply(body, self._settings, model, f"{prefix}-{self._settings.name}-{next(self._ids)}")
        return (reply, None, make_events(reply)) if body.get("stream") else (reply, make_document(reply), None)

    def _charge(self, request: web.Request, operation: str, reply: Reply, generated: int, outcome: str) -> None:
        if outcome == "completed" or (outcome == "cancelled" and self._settings.bills_whole_answer):
            generated = reply.completion_tokens
        self._meter.charge(
            BillLine(
                id=reply.id,
                request_id=request.headers.get("x-request-id"),
                operation=operation,
                model=reply.model.id,
                prompt_tokens=reply.prompt_tokens,
                cached_tokens=reply.cached_tokens,
                completion_tokens=generated,
                usd=reply.usd(generated),
                outcome=outcome,
            )
        )


async def apply_fault(request: web.Request, fault: InjectedFault, meter: Meter) -> web.StreamResponse | None:
    """Applies a fault that comes before the answer: an error response, a reset or a hang.

    Returns None where the answer follows, which may itself be faulty. Raises ProviderError for an error response.
    """
    if fault.kind is None:
        return None
    meter.faults[fault.kind] += 1
    if fault.kind == "reset" or (fault.kind == "down" and fault.settings.down_as == "reset"):
        end_connection(request, reset=True)
        return web.Response()
    if fault.kind == "hang":
        await asyncio.Event().wait()  # aiohttp cancels this handler when the client disconnects
    if fault.kind in ERRORS:
        await asyncio.sleep(fault.settings.refuse_after_seconds)
        status, message, kind, code = ERRORS[fault.kind]
        wait = fault.settings.retry_after_seconds if status == 429 else None
        raise ProviderError(status, message, code, kind=kind, retry_after_seconds=wait)
    return None
