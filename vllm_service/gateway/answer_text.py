"""Keeps the text of an answer while it passes, so that its tokens can be counted if the provider sends no usage.

Only the text is kept, without the JSON around it, and only up to a bound.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from vllm_service.domain.usage import BYTES_PER_TOKEN

#: The most that is kept of one answer; the tokens of a longer one are estimated.
MOST_TEXT_BYTES = 2 * 2**20
# Chunks are collected before they are parsed, which takes the parsing off the path of most chunks.
_READ_EVERY_BYTES = 65536
# What a whole answer holds besides its text, about: id, times, names, finish reason. For estimating tokens only.
_ENVELOPE_BYTES = 350


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    function: _Function | None = None


class _Message(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    text: str | None = None
    delta: _Message | None = None
    message: _Message | None = None


class _Part(msgspec.Struct):
    text: str | None = None


class _Item(msgspec.Struct):
    content: list[_Part] | None = None
    name: str | None = None
    arguments: str | None = None


class _Document(msgspec.Struct):
    """A whole answer or the data of one event, of any operation: `choices` of chat and completions, else responses'.

    msgspec skips all other members without making objects of them.
    """

    choices: list[_Choice] | None = None
    #: The text of one event of a responses stream.
    delta: str | None = None
    #: The items of a whole answer of responses.
    output: list[_Item] | None = None


_decoder = msgspec.json.Decoder(_Document)


class AnswerText:
    """The text of one answer so far."""

    __slots__ = ("_bytes", "_pending", "_pending_bytes", "_read_at_bytes", "texts")

    def __init__(self) -> None:
        #: Pieces of text by their choice's index, since each choice is tokenized by itself; None: too long to keep.
        self.texts: dict[int, list[str]] | None = {}
        self._bytes = 0
        # What has come and is not parsed yet.
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._read_at_bytes = _READ_EVERY_BYTES

    @classmethod
    def whole(cls, document: bytes) -> AnswerText:
        """Returns the text of an answer that came in one piece."""
        answer_text = cls()
        answer_text._bytes = len(document)
        if answer_text._bytes > MOST_TEXT_BYTES:
            answer_text.texts = None
        else:
            answer_text._add(document)
        return answer_text

    def around(self, receive: Callable[[bytes], None]) -> Callable[[bytes], None]:
        """Returns `receive` with the text of each piece kept as well."""

        def keep(data: bytes) -> None:
            receive(data)  # first, so that the caller does not wait for the parsing
            if self.texts is not None:
                self._pending.append(data)
                self._pending_bytes += len(data)
                if self._pending_bytes > self._read_at_bytes:
                    self._read()

        return keep

    def ended(self) -> dict[int, list[str]] | None:
        """Returns the texts when the answer has ended; None if it was too long to keep."""
        self._read()
        return self.texts

    def _read(self) -> None:
        """Parses what has come; a line that came in part stays pending until its rest comes."""
        lines = b"".join(self._pending).split(b"\n")
        self._pending = [lines.pop()]
        self._pending_bytes = len(self._pending[0])
        # A line that has not ended is looked at anew only when it has doubled, or small pieces would cost O(n^2).
        self._read_at_bytes = max(_READ_EVERY_BYTES, 2 * self._pending_bytes)
        for line in lines:
            if line.startswith(b"data:"):
                self._add(line[5:])
        # What is pending counts too: a provider could send one line without an end.
        if self._bytes + self._pending_bytes > MOST_TEXT_BYTES:
            self.texts = None
            self._pending = []
            self._pending_bytes = 0

    def _add(self, document: bytes) -> None:
        try:
            answer = _decoder.decode(document)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return  # [DONE], or JSON of another shape: it holds no text that could be counted
        if answer.delta:
            self._keep(0, answer.delta)
        for choice in answer.choices or ():
            self._keep(choice.index, choice.text)
            if (message := choice.delta or choice.message) is not None:
                self._add_message(choice.index, message)
        for item in answer.output or ():
            for text in (item.name, item.arguments, *(part.text for part in item.content or ())):
                self._keep(0, text)

    def _add_message(self, index: int, message: _Message) -> None:
        self._keep(index, message.reasoning_content or message.reasoning)
        self._keep(index, message.content)
        for call in message.tool_calls or ():
            if call.function is not None:
                self._keep(index, call.function.name)
                self._keep(index, call.function.arguments)

    def _keep(self, index: int, text: str | None) -> None:
        if text and self.texts is not None:
            self._bytes += len(text)
            self.texts.setdefault(index, []).append(text)


def estimated_tokens(document: bytes) -> int:
    """Returns the tokens of a whole answer by the length of its text; by its own length where no text can be read."""
    texts = AnswerText.whole(document).texts
    text_bytes = 0 if texts is None else sum(len(piece.encode()) for pieces in texts.values() for piece in pieces)
    if text_bytes == 0:
        return max(0, len(document) - _ENVELOPE_BYTES) // BYTES_PER_TOKEN
    return -(-text_bytes // BYTES_PER_TOKEN)  # rounded up: a text of one letter has a token
