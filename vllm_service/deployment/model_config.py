"""The few fields of a model's config.json that decide how much memory it takes, each read with its bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm_service.deployment.unknown import Unknown

#: More than any field here can be: such a number is a defect of the file.
MOST = 10**9
#: Kinds of scaled positions whose length is what max_position_embeddings says (vLLM 0.32's rule).
_PLAIN_ROPE = ("default", "llama3", "longrope", "su", "mrope")
_LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length")


class ModelConfig:
    """Reads fields of the language model, which is in `text_config` where a model has several parts."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        text = document.get("text_config")
        self._whole = document
        self._text: Mapping[str, Any] = text if isinstance(text, Mapping) else document

    @property
    def model_type(self) -> str:
        """The architecture's name, such as llama; an empty text where the file names none."""
        found = self._text.get("model_type")
        return found if isinstance(found, str) else ""

    @property
    def dtype(self) -> str | None:
        """The type that the weights were made in, such as bfloat16; None where the file says nothing."""
        for document in (self._text, self._whole):
            for key in ("dtype", "torch_dtype"):
                if isinstance(found := document.get(key), str):
                    return found.removeprefix("torch.")
        return None

    @property
    def is_quantized(self) -> bool:
        """True where the files hold quantised weights."""
        keys = ("quantization_config", "compression_config")
        return any(document.get(key) is not None for document in (self._text, self._whole) for key in keys)

    def has(self, key: str) -> bool:
        """Returns true where the field is there and not null."""
        return self._text.get(key) is not None

    def is_named(self, key: str) -> bool:
        """Returns true where the file has the field, be it null."""
        return key in self._text

    def is_off(self, key: str) -> bool:
        """Returns true where the field is false."""
        return self._text.get(key) is False

    def count(self, key: str, most: int = MOST) -> int | Unknown:
        """Returns a whole number above zero."""
        found = self._text.get(key)
        if isinstance(found, bool) or not isinstance(found, int):
            return Unknown(f"config.json has no number {key}")
        if not 0 < found <= most:
            return Unknown(f"config.json has a {key} that cannot be: {str(found)[:20]}")
        return found

    def texts(self, key: str) -> tuple[str, ...] | None:
        """Returns a list of texts; None where the field is no such list."""
        found = self._text.get(key)
        if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
            return None
        return tuple(found)

    def longest_context(self) -> int | Unknown:
        """Returns the tokens that the model was made for."""
        rope = self._text.get("rope_parameters") or self._text.get("rope_scaling")
        kind = (rope.get("rope_type") or rope.get("type")) if isinstance(rope, Mapping) else None
        if isinstance(kind, str) and kind not in _PLAIN_ROPE:
            return Unknown(f"config.json scales positions by {kind[:40]!r}; name context_length")
        for key in _LENGTHS:
            if isinstance(length := self.count(key), int):
                return length
        return Unknown("config.json names no longest context; name context_length")
