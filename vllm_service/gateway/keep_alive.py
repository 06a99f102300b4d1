"""Keeps silent streams alive: servers on the way to the caller close connections on which nothing comes.

A stream that has not begun gets its head after a while, so that attempts can go on: no content has been passed on, and
another offer may still answer. From then on, and within a stream whose provider is silent, it gets comments, which no
client takes for an event. Until the head is sent an error is answered with its status.
"""

from __future__ import annotations

import asyncio
import time

from vllm_service.gateway.context import RequestContext
from vllm_service.gateway.event_relay import EventRelay
from vllm_service.gateway.respond import begin_stream

COMMENT = b": keep-alive\n\n"
#: All streams are looked at so often, from one timer: a timer for each would cost every request, and a look at the
#: clock every chunk. So a comment comes up to twice this late.
LONGEST_INTERVAL_SECONDS = 1.0


class _Silence:
    """The time in which one caller has got nothing, as exactly as it is looked at often."""

    __slots__ = ("_passed_on", "since")

    def __init__(self, since: float) -> None:
        #: When the caller last got something; before that, when the request came. Seconds of time.monotonic.
        self.since = since
        self._passed_on = 0

    def look(self, relay: EventRelay | None, now: float) -> None:
        """Ends the silence if the stream has passed on something since the last look."""
        if relay is not None and (count := relay.events + relay.others) != self._passed_on:
            self._passed_on = count
            self.since = now


class KeepAlive:
    """Watches the streams of one event loop. seconds: how long a caller gets nothing at most."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._interval = min(LONGEST_INTERVAL_SECONDS, seconds / 4)
        self._streams: dict[RequestContext, _Silence] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """True while nothing is watched and no timer runs."""
        return self._timer is None and not self._streams

    def watch(self, context: RequestContext) -> None:
        """Watches a request for a stream, which is being tried, until `forget`."""
        self._streams[context] = _Silence(context.started)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._interval, self._look)

    def forget(self, context: RequestContext) -> None:
        """Ends the watch, before the request's end."""
        self._streams.pop(context, None)

    def _look(self) -> None:
        """Looks at all streams; the timer ends with the last one."""
        self._timer = None
        if not self._streams:
            return
        # First of all: an error in one look must not end the looks at all other streams.
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._look)
        now = time.monotonic()
        for context, silence in self._streams.items():
            silence.look(context.relay, now)
            if now - silence.since >= self._seconds:
                _send_comment(context)
                silence.since = now


def _send_comment(context: RequestContext) -> None:
    if context.is_answered or context.writer.has_left:
        return
    begin_stream(context, names_provider=False)
    context.writer.send(COMMENT)
