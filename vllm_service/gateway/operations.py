"""The operations of OpenAI's API that the gateway passes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from vllm_service.domain.answers import Form


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """One operation of the API."""

    #: How its answers are judged.
    form: Form
    #: The path behind a provider's base URL.
    path: str
    #: Whether a stream carries usage only if `stream_options` requests it.
    has_stream_options: bool
    #: Whether the answer holds tokens of its own; embeddings do not.
    has_completion: bool = True
    #: The members of a body that bound the length of each answer.
    bounds: tuple[str, ...] = ()
    #: Whether one request may have several answers: by a list of prompts, `n` or `best_of`.
    has_choices: bool = False

    #: The name in the ledger.
    name: str = field(init=False)
    #: Returns the values of `bounds` in a body.
    bounds_in: Callable[[Any], tuple[float | None, ...]] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.form.value)  # once: reading an enumeration's value takes long
        # A single name is there twice: attrgetter would return no tuple.
        names = self.bounds * 2 if len(self.bounds) == 1 else self.bounds
        object.__setattr__(self, "bounds_in", attrgetter(*names) if names else lambda _: ())


CHAT = Operation(Form.CHAT, "/chat/completions", True, bounds=("max_tokens", "max_completion_tokens"), has_choices=True)
COMPLETIONS = Operation(Form.COMPLETIONS, "/completions", True, bounds=("max_tokens",), has_choices=True)
RESPONSES = Operation(Form.RESPONSES, "/responses", False, bounds=("max_output_tokens",))
EMBEDDINGS = Operation(Form.EMBEDDINGS, "/embeddings", False, has_completion=False)

#: The operations by the paths of the gateway's own API, with and without /v1.
BY_PATH = {
    prefix + operation.path.encode(): operation
    for operation in (CHAT, COMPLETIONS, RESPONSES, EMBEDDINGS)
    for prefix in (b"/v1", b"")
}
