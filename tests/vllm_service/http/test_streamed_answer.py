"""Nothing endless is kept of an answer, whatever was requested and whatever comes."""

from __future__ import annotations

import pytest

from vllm_service.domain.answers import Form
from vllm_service.domain.event_stream import StreamBeginning
from vllm_service.http.client_connection import LONGEST_ANSWER_BYTES, LONGEST_BEGINNING_BYTES, ProviderAnswer
from vllm_service.http.upstream import CutShort, ProviderFault


class Carrier:
    """A connection that remembers why it was ended."""

    def __init__(self) -> None:
        self.fault: ProviderFault | None = None

    def fail(self, fault: ProviderFault) -> None:
        self.fault = fault

    def pause(self) -> None:
        raise NotImplementedError

    def resume(self) -> None:
        raise NotImplementedError


EVENTS, DOCUMENT = b": ping\n\n", b"{"


@pytest.mark.parametrize(
    ("first", "most"),
    [(EVENTS, LONGEST_BEGINNING_BYTES), (DOCUMENT, LONGEST_ANSWER_BYTES), (None, LONGEST_ANSWER_BYTES)],
    ids=["events", "a document for a stream", "a whole answer"],
)
def test_what_is_kept_has_a_bound(first: bytes | None, most: int) -> None:
    carrier = Carrier()
    beginning = None if first is None else StreamBeginning(Form.CHAT)
    answer = ProviderAnswer(carrier, {}, beginning=beginning)
    if beginning is not None:
        assert not beginning.feed(first or b"")
    answer.keep(bytes(most))
    assert carrier.fault is None
    answer.keep(b"x")
    assert isinstance(carrier.fault, CutShort)
