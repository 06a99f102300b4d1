"""Takes the secrets of a deployment out of everything that is shown, also where RunPod or a worker repeats them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vllm_service.deployment.spec import is_secret_name
from vllm_service.runpod.concealed import conceal

#: Of a line that is shown. The rest is cut off before it is searched.
LONGEST_LINE = 8192


class Concealer:
    """Knows the values that no output may hold; `learn` adds those that RunPod's answers turn out to have."""

    def __init__(self, values: Iterable[str]) -> None:
        self._values = {value for value in values if value}

    def __repr__(self) -> str:
        return f"Concealer({len(self._values)} values)"

    def learn(self, environment: object) -> None:
        """Adds the values of an endpoint's or template's variables whose names are those of secrets."""
        if isinstance(environment, Mapping):
            self._values.update(
                value
                for name, value in environment.items()
                if isinstance(value, str) and value and is_secret_name(str(name))
            )

    def text(self, text: str) -> str:
        """Returns the text without secrets."""
        return conceal(text, self._values)

    def line(self, text: str) -> str:
        """Returns one line of foreign text, such as a log's: shortened, and without what would steer a terminal."""
        whole = " ".join(text[:LONGEST_LINE].split("\n"))
        return self.text("".join(letter if letter.isprintable() else " " for letter in whole).rstrip())

    def document(self, value: Any) -> Any:
        """Returns a JSON document whose texts, also its keys, hold no secret."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(key)): self.document(member) for key, member in value.items()}
        if isinstance(value, list | tuple):
            return [self.document(member) for member in value]
        return value
