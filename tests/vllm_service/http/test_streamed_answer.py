"""When a stream has begun, however its bytes come; and that nothing endless is kept until then."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_service.http import client_connection
from vllm_service.http.client_connection import ProviderAnswer
from vllm_service.http.upstream import CutShort, ProviderFault

BEGUN = re.compile(rb"(?:^|\n)(?:data|event):.*?(?:\n\n|\r\n\r\n)", re.DOTALL)
PIECES = st.sampled_from([b"data:", b"event:", b"\n", b"\r\n", b"\r", b": ping", b"da", b"ta:", b"x" * 9, b"\n\n"])


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


@given(st.lists(PIECES, max_size=12))
def test_it_has_begun_with_the_end_of_its_first_event_wherever_it_was_cut(pieces: list[bytes]) -> None:
    answer, so_far = ProviderAnswer(Carrier(), {}, is_stream=True), b""
    for piece in pieces:
        answer.keep(piece)
        so_far += piece
        assert answer.has_begun() is (BEGUN.search(so_far) is not None)
    assert answer.body == so_far


@pytest.mark.parametrize("is_stream", [True, False])
def test_what_is_kept_has_a_bound(is_stream: bool) -> None:
    carrier = Carrier()
    most = client_connection.LONGEST_BEGINNING_BYTES if is_stream else client_connection.LONGEST_ANSWER_BYTES
    answer = ProviderAnswer(carrier, {}, is_stream=is_stream)
    answer.keep(bytes(most))
    assert carrier.fault is None
    answer.keep(b"x")
    assert isinstance(carrier.fault, CutShort)
