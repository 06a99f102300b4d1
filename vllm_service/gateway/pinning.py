"""Sends a request to a load-balancing endpoint, if possible to the worker that has read the conversation's beginning.

RunPod's load balancer names the worker of an answer in X-Runpod-Worker-Id, and takes the name back as a preference,
which never fails a request. The header comes from no caller, and goes to none.
"""

from __future__ import annotations

from functools import partial
from hashlib import blake2b

import msgspec

from vllm_service.catalog.model import Provider
from vllm_service.domain.event_stream import StreamBeginning
from vllm_service.gateway.context import RequestContext
from vllm_service.gateway.request_body import RequestFields
from vllm_service.http.upstream import Answer, Patience, Sender, Sending

WORKER_HEADER = b"x-runpod-worker-id"
#: Of a text, which grows with each turn, so much tells one conversation from others.
BEGINNING_BYTES = 256
_DIGEST_BYTES = 16


class _Message(msgspec.Struct):
    role: str = ""
    content: msgspec.Raw = msgspec.Raw(b"")


_messages = msgspec.json.Decoder(list[_Message])


def conversation_of(organisation: str, fields: RequestFields) -> bytes | None:
    """Returns the hash of the organisation and of the messages up to the first of a user, or of a text's beginning.

    What a caller has divided by `cache_salt` or `prompt_cache_key` stays divided. None for a request without a prompt.
    """
    raw = bytes(fields.messages or fields.input or fields.prompt)
    if not raw:
        return None
    digest = blake2b(digest_size=_DIGEST_BYTES)
    for part in (organisation.encode(), bytes(fields.cache_salt), bytes(fields.prompt_cache_key), *_beginning(raw)):
        digest.update(b"%d:" % len(part))  # else parts could run into one another
        digest.update(part)
    return digest.digest()


def _beginning(raw: bytes) -> list[bytes]:
    try:
        messages = _messages.decode(raw)
    except msgspec.MsgspecError:  # a text, or what only the provider understands
        return [raw[:BEGINNING_BYTES]]
    parts: list[bytes] = []
    for message in messages:
        parts += (message.role.encode(), bytes(message.content))
        if message.role == "user":
            break
    return parts


class PinnedSend(msgspec.Struct, eq=False):
    """Sends one request as upstream.Upstream.send does, in its place."""

    _context: RequestContext

    async def __call__(
        self,
        provider: Provider,
        path: str,
        headers: bytes,
        body: bytes,
        patience: Patience,
        *,
        beginning: StreamBeginning | None,
        sending: Sending,
        sender: Sender,
    ) -> Answer:
        """Adds the header for the load balancer, and learns from the answer's."""
        context = self._context
        pins, clock, organisation = context.snapshot.pins, context.policy.clock, context.key.organisation
        conversation = conversation_of(organisation, context.fields)
        if conversation is not None:
            worker = pins.worker_for(provider.name, organisation, conversation, clock())
            headers = headers if worker is None else headers + b"%b: %b\r\n" % (WORKER_HEADER, worker.encode())
        answer = await context.upstream.send(
            provider, path, headers, body, patience, beginning=beginning, sending=sending, sender=sender
        )
        served_by = answer.headers.get(WORKER_HEADER)
        if conversation is not None and served_by is not None and answer.status == 200:
            learn = partial(pins.served, provider.name, organisation, conversation, served_by.decode("latin-1"))
            seconds = provider.idle_worker_seconds
            learn(clock() + seconds)  # a second request may come while this answer is written
            context.learn_worker = lambda: learn(clock() + seconds)
        return answer
