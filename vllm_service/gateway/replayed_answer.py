"""A whole answer of a provider that was to stream, as the stream that its caller expects."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from vllm_service.domain.answers import Form
from vllm_service.domain.replayed_events import events_of
from vllm_service.http.upstream import Answer


class ReplayedAnswer:
    """Implements upstream.Answer. All of the answer has come already, so there is nothing to pause or to close."""

    is_stream = True

    def __init__(self, answer: Answer, form: Form) -> None:
        self._answer = answer
        self._events = events_of(form, answer.body)

    @property
    def status(self) -> int:
        """Returns the status of the provider's answer."""
        return self._answer.status

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        """Returns the headers of the provider's answer."""
        return self._answer.headers

    @property
    def body(self) -> bytes:
        """Returns the events."""
        return self._events

    def relay(self, receive: Callable[[bytes], None]) -> asyncio.Future[None]:
        """Calls `receive` once, with all events."""
        receive(self._events)
        end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        end.set_result(None)
        return end

    def pause(self) -> None:
        """Does nothing."""

    def resume(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""
