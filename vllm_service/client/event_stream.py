"""The chunks of one streamed answer: the SDK's stream, with this project's own judgement of what an answer is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx2
import msgspec
import openai
from openai import AsyncStream
from openai._httpx2 import request_exceptions, timeout_exceptions
from openai._streaming_cleanup import drain_response_async

from vllm_service.client.cost_info import MARK
from vllm_service.client.errors import BadAnswer
from vllm_service.domain.answers import Form, Judgement, Verdict, judge_whole
from vllm_service.domain.event_stream import BodyBeginning, Event, EventSplitter, StreamJudge, TooLong
from vllm_service.domain.in_band_errors import loaded
from vllm_service.domain.replayed_events import events_of

#: A whole answer in place of a stream is held in memory, so it has the limit that it has in the gateway.
LONGEST_ANSWER_BYTES = 128 * 2**20


class EventStream(AsyncStream[object]):
    """The chunks of an answer, as JSON. Raises BadAnswer for what is no complete answer, or holds an error."""

    #: The form of the answer, and how many choices were requested; set before the stream is read.
    form = Form.CHAT
    choices = 1
    #: The last event with the gateway's cost_info. Its bytes, because JSON's numbers are decoded to floats.
    annotated: bytes | None = None
    #: Is called whenever something has come, also a comment.
    on_data: Callable[[], None] | None = None

    async def __stream__(self) -> AsyncIterator[object]:
        judge, splitter = StreamJudge(self.form, self.choices), EventSplitter()
        whole = _WholeAnswer()
        try:
            async for data in self._pieces():
                if whole.takes(data):
                    continue
                for chunk in self._chunks(judge, splitter.feed(data)):
                    yield chunk
                if judge.has_ended:
                    await drain_response_async(self.response)  # so that the connection can be used again
                    break
            for chunk in self._last_chunks(judge, splitter, whole.document):
                yield chunk
        except TooLong as error:
            judgement = Judgement(Verdict.NOT_AN_ANSWER, f"sent a stream in which {error}")
            raise BadAnswer(judgement, self.response.headers) from None
        finally:
            await self.response.aclose()

    async def _pieces(self) -> AsyncIterator[bytes]:
        try:
            async for data in self.response.aiter_bytes():
                if self.on_data is not None:
                    self.on_data()
                yield data
        except timeout_exceptions() as error:
            raise openai.APITimeoutError(request=self.response.request) from error
        except request_exceptions() as error:
            raise openai.APIConnectionError(request=self.response.request) from error

    def _chunks(self, judge: StreamJudge, events: Iterator[Event]) -> Iterator[object]:
        for event in events:
            reading = judge.take(event)
            if judge.fault is not None:
                raise BadAnswer(judge.fault, self.response.headers)
            if judge.has_ended and reading.is_last and self.form is not Form.RESPONSES:
                return
            if event.data:
                if MARK in event.data:
                    self.annotated = event.data
                yield read_json(event.data)

    def _last_chunks(self, judge: StreamJudge, splitter: EventSplitter, document: bytes | None) -> Iterator[object]:
        """Yields the chunks of an answer that came in one piece; raises BadAnswer if the answer is not complete."""
        if document is not None:
            judged(self.form, document, self.response.headers)
            yield from self._chunks(judge, EventSplitter().feed(events_of(self.form, document)))
        elif splitter.is_done:
            judge.take(Event(b"", b"[DONE]"))
        judgement = judge.end()
        if judgement.verdict is not Verdict.ANSWER:
            raise BadAnswer(judgement, self.response.headers)


class _WholeAnswer:
    """A JSON document that may come in place of events."""

    def __init__(self) -> None:
        self._beginning = BodyBeginning()
        self._is_document: bool | None = None
        self._held = bytearray()

    def takes(self, data: bytes) -> bool:
        """Returns whether the piece is a part of a document. Raises TooLong."""
        if self._is_document is None:
            self._is_document = self._beginning.feed(data)
        if self._is_document is not False:
            self._held += data
            if len(self._held) > LONGEST_ANSWER_BYTES:
                raise TooLong("the answer", LONGEST_ANSWER_BYTES)
        return self._is_document is True

    @property
    def document(self) -> bytes | None:
        """Returns the document; None if the pieces are none."""
        return bytes(self._held) if self._is_document else None


def judged(form: Form, document: bytes, headers: httpx2.Headers) -> Any:
    """Returns a whole answer, parsed. Raises BadAnswer for what is none."""
    judgement = judge_whole(form, document)
    if judgement.verdict is not Verdict.ANSWER:
        raise BadAnswer(judgement, headers)
    return read_json(document)


def read_json(document: bytes) -> Any:
    """Returns parsed JSON, see in_band_errors.loaded. Raises ValueError for what is not JSON."""
    try:
        return msgspec.json.decode(document)
    except (ValueError, RecursionError):
        return loaded(document)
