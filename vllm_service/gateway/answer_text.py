"""The text of an answer, kept while it passes, for providers that send no usage: bounded, and without its envelopes."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

MOST_TEXT_BYTES = 2 * 2**20  # of one answer; beyond, its length is estimated
_READ_EVERY_BYTES = 65536


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
    """A whole answer, or an event: of chat and completions, or of responses (`delta` is text there)."""

    choices: list[_Choice] | None = None
    delta: str | None = None
    output: list[_Item] | None = None


_decoder = msgspec.json.Decoder(_Document)


class AnswerText:
    """`texts` by choice: they are counted each for itself. None once it was too long to be kept."""

    __slots__ = ("_bytes", "_pending", "_pending_bytes", "texts")

    def __init__(self) -> None:
        self.texts: dict[int, list[str]] | None = {}
        self._bytes = 0
        self._pending: list[bytes] = []
        self._pending_bytes = 0

    @classmethod
    def whole(cls, document: bytes) -> AnswerText:
        """Of an answer that came in one piece."""
        said = cls()
        said._bytes = len(document)
        if said._bytes > MOST_TEXT_BYTES:
            said.texts = None
        else:
            said._add(document)
        return said

    def around(self, receive: Callable[[bytes], None]) -> Callable[[bytes], None]:
        """Receives a stream's pieces, and passes them on."""

        def keep(data: bytes) -> None:
            receive(data)
            if self.texts is not None:
                self._pending.append(data)
                self._pending_bytes += len(data)
                if self._pending_bytes > _READ_EVERY_BYTES:
                    self._read()

        return keep

    def ended(self) -> dict[int, list[str]] | None:
        """All texts, now that nothing more comes."""
        self._read()
        return self.texts

    def _read(self) -> None:
        """Takes the text out of what has come; a line that came in part waits for its rest."""
        lines = b"".join(self._pending).split(b"\n")
        self._pending = [lines.pop()]
        self._pending_bytes = len(self._pending[0])
        for line in lines:
            if line.startswith(b"data:"):
                self._add(line[5:])
        if self._bytes + self._pending_bytes > MOST_TEXT_BYTES:
            self.texts, self._pending, self._pending_bytes = None, [], 0

    def _add(self, document: bytes) -> None:
        try:
            said = _decoder.decode(document)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return  # [DONE], or no document of ours
        if said.delta:
            self._keep(0, said.delta)
        for choice in said.choices or ():
            self._keep(choice.index, choice.text)
            if (message := choice.delta or choice.message) is not None:
                self._add_message(choice.index, message)
        for item in said.output or ():
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
