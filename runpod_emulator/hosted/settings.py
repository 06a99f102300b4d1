"""What an emulated hosted provider is like: its models, prices and speed, and how it sends usage."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Literal, get_args

from runpod_emulator.hosted.faults import HostedFaults

# Where a stream's usage stands: a chunk of its own without choices (OpenAI), with the last choice (Together), under
# `x_groq` (Groq), in every chunk (vLLM's continuous usage), nowhere.
UsagePlace = Literal["own_chunk", "last_choice", "x_groq", "every_chunk", "nowhere"]
ZERO = Decimal(0)


@dataclass(frozen=True, kw_only=True)
class HostedModel:
    """One model. Prices are dollars per million tokens; `cached_input_usd` None gives no discount.

    answer_tokens: how long an answer is unless the caller's limit is shorter.
    """

    id: str
    input_usd: Decimal = ZERO
    output_usd: Decimal = ZERO
    cached_input_usd: Decimal | None = None
    context_length: int = 131_072
    answer_tokens: int = 48
    reasoning_tokens: int = 0
    embedding_dimensions: int = 64

    def __post_init__(self) -> None:
        if self.answer_tokens < 1 or self.context_length < 1 or self.embedding_dimensions < 1:
            raise ValueError(f"{self.id}: answer_tokens, context_length and embedding_dimensions are at least 1")

    def usd(self, prompt: int, cached: int, completion: int) -> Decimal:
        """What these tokens cost, exact."""
        cached_price = self.input_usd if self.cached_input_usd is None else self.cached_input_usd
        total = (prompt - cached) * self.input_usd + cached * cached_price + completion * self.output_usd
        return total / 1_000_000


@dataclass(frozen=True, kw_only=True)
class HostedSettings:
    """One provider, under `/hosted/NAME/v1`. Raises ValueError.

    ttft_seconds, tokens_per_second: to the first token, and from there on; None is as fast as it goes.
    cached_share: of prompt tokens that are reported, and billed, as cached.
    usage_place: where a stream's usage stands; `nowhere` leaves it out of plain answers too.
    usage_unasked: streams carry it without `stream_options.include_usage`.
    bills_whole_answer: a client that leaves pays for the whole answer, and not only for what was generated.
    """

    name: str
    models: tuple[HostedModel, ...] = (HostedModel(id="emulated-model"),)
    api_key: str | None = field(default=None, repr=False)
    ttft_seconds: float = 0
    tokens_per_second: float | None = None
    cached_share: float = 0
    usage_place: UsagePlace = "own_chunk"
    usage_unasked: bool = False
    bills_whole_answer: bool = False
    max_body_bytes: int = 20_000_000
    faults: HostedFaults = field(default_factory=HostedFaults)

    def __post_init__(self) -> None:
        if not self.name.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"name: letters, digits, - and _ only, got {self.name!r}")
        if self.ttft_seconds < 0 or (self.tokens_per_second is not None and self.tokens_per_second <= 0):
            raise ValueError(f"{self.name}: ttft_seconds is at least 0, tokens_per_second above 0")
        if not 0 <= self.cached_share <= 1:
            raise ValueError(f"{self.name}: cached_share is from 0 to 1, got {self.cached_share}")
        if self.usage_place not in get_args(UsagePlace):
            raise ValueError(f"{self.name}: usage_place is one of {', '.join(get_args(UsagePlace))}")


def read_config(path: Path) -> tuple[HostedSettings, ...]:
    """Providers from a JSON file `{"providers": [{"name", "models": [{"id", ...}], ...}]}`, with the fields above.

    Raises ValueError naming the file, OSError when it cannot be read.
    """
    try:
        providers = json.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)["providers"]
        return tuple(_provider(document) for document in providers)
    except (KeyError, TypeError, ValueError, InvalidOperation) as error:
        raise ValueError(f"{path}: expected {{'providers': [{{'name', 'models': [{{'id'}}]}}]}}: {error}") from None


def _provider(document: Mapping[str, Any]) -> HostedSettings:
    values = dict(document)
    if "models" in values:
        values["models"] = tuple(HostedModel(**_prices(model)) for model in values["models"])
    if "faults" in values:
        values["faults"] = HostedFaults.parse(_floats(values["faults"]))
    known = {setting.name for setting in dataclasses.fields(HostedSettings)}
    if unknown := values.keys() - known:
        raise ValueError(f"{', '.join(sorted(unknown))}: not among {', '.join(sorted(known))}")
    return HostedSettings(**_floats(values))


def _prices(model: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: Decimal(value) if name.endswith("_usd") and value is not None else value for name, value in model.items()
    }


def _floats(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: float(value) if isinstance(value, Decimal) else value for name, value in values.items()}
