"""Reads models.yaml: public models, their offers with prices, aliases, limits, and the baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vllm_service.catalog.model import Offer, ProviderKind, PublicModel
from vllm_service.catalog.presets import PRESETS
from vllm_service.catalog.prices import PackagePrices, Quote
from vllm_service.catalog.provider_entry import ProviderEntry
from vllm_service.catalog.providers_yaml import read_price
from vllm_service.catalog.tasks import with_tasks
from vllm_service.catalog.yaml_file import Section, Value
from vllm_service.domain.pricing import TokenPrice

MODEL_KEYS = (
    *("offers", "aliases", "context_length", "capabilities", "description"),
    *("latency_target_seconds", "strategy", "baseline", "baseline_price", "tokenizer"),
)
EMBEDDINGS = "embeddings"


@dataclass
class ModelReader:
    """Reads models.yaml against the entries of providers.yaml."""

    #: By name; None for a disabled provider.
    providers: Mapping[str, ProviderEntry | None]
    prices: PackagePrices
    default_baseline: str | None = None
    #: Filled by `read`: what stays unknown, and why.
    warnings: list[str] = field(default_factory=list)

    def read(self, root: Value) -> dict[str, PublicModel]:
        """Returns each model under its name, its aliases and its tasks. Raises ConfigurationError."""
        top = root.section(("baseline", "models", "tasks"))
        self.default_baseline = top.text("baseline") or self.default_baseline
        section = top.need("models").section()
        found: dict[str, PublicModel] = {}
        declared: list[str] = []
        for name, value in section:
            with root.faults:
                entry = value.section(MODEL_KEYS)
                declared += [name, *entry.words("aliases")]
                if (model := self._model(name, entry)) is not None:
                    _add(found, model, value)
        if not found and not root.faults:
            raise section.value.wrong(
                "no model has an enabled provider; add offers, or set enabled: true at a provider"
            )
        tasks = top.get("tasks")
        return found if tasks is None else with_tasks(found, tasks, declared, self.warnings)

    def _model(self, name: str, section: Section) -> PublicModel | None:
        context_length = section.read("context_length", Value.count, None)
        capabilities = frozenset(section.words("capabilities"))
        offers: tuple[Offer, ...] = ()
        with section.value.faults:
            offers = self._offers(section, context_length, capabilities)
        # A chat model's price is no measure for embeddings: they have no baseline but one that they name themselves.
        baseline = section.text("baseline") or (None if capabilities == {EMBEDDINGS} else self.default_baseline)
        model = PublicModel(
            name=name,
            offers=offers,
            aliases=section.words("aliases"),
            context_length=context_length,
            capabilities=capabilities,
            description=section.text("description"),
            latency_target_seconds=section.read("latency_target_seconds", Value.positive, None),
            strategy=section.read("strategy", Value.strategy, None),
            baseline_model=baseline,
            baseline_price=self._baseline_price(section, baseline, context_length),
            tokenizer=section.read("tokenizer", _tokenizer, None),
        )
        if not offers:
            self.warnings.append(f"{section.value.path}: all of its providers are disabled, so it is not served")
        return model if offers else None

    def _offers(self, section: Section, context_length: int | None, capabilities: frozenset[str]) -> tuple[Offer, ...]:
        items = section.need("offers").items()
        if not items:
            raise section.need("offers").wrong("there is no offer; add {provider: NAME, model: ITS_NAME_THERE}")
        offers: list[Offer] = []
        for item in items:
            with item.faults:
                self._add_offer(offers, item, context_length, output=capabilities != {EMBEDDINGS})
        return tuple(offers)

    def _add_offer(self, offers: list[Offer], item: Value, context_length: int | None, *, output: bool) -> None:
        section = item.section(("provider", "model", "weight"))
        weight = section.positive("weight", 1.0)
        model = section.read_needed("model", Value.text, "")
        provider = section.need("provider").choice(self.providers)
        if any(earlier.provider == provider and earlier.model == model for earlier in offers):
            raise item.wrong(f"{provider} already offers {model} here; remove one of the two")
        if (entry := self.providers[provider]) is None:
            return
        quote = self._quote(entry, model, context_length, output=output)
        if quote.reason:
            self.warnings.append(f"{item.path}: price unknown: {quote.reason}")
        offers.append(Offer(provider, model, quote.price, weight))

    def _quote(self, entry: ProviderEntry, model: str, context_length: int | None, *, output: bool) -> Quote:
        if entry.provider.kind is ProviderKind.RUNPOD:
            unknown = "" if entry.provider.second_price else "set usd_per_second at its provider"
            return Quote(None, unknown)
        if model in entry.prices:
            return Quote(entry.prices[model])
        if entry.price_source is None:
            return Quote(None, f"set prices.{model} at providers.{entry.provider.name}")
        return self.prices.quote(entry.price_source, model, context_length, output=output)

    def _baseline_price(self, section: Section, baseline: str | None, context_length: int | None) -> TokenPrice | None:
        own = section.read("baseline_price", read_price, None)
        if own is not None or baseline is None:
            return own
        # The part before the slash is a provider of providers.yaml, whose own price comes first; else a preset; else a
        # provider by the price package's name.
        source, _, model = baseline.partition("/")
        entry = self.providers.get(source)
        if entry is not None and model in entry.prices:
            return entry.prices[model]
        preset = PRESETS.get(source)
        source = (entry.price_source if entry else None) or (preset.price_source if preset else None) or source
        quote = self.prices.quote(source, model, context_length)
        if quote.reason:
            self.warnings.append(f"{section.value.path}.baseline: price unknown: {quote.reason}")
        return quote.price


def _add(found: dict[str, PublicModel], model: PublicModel, value: Value) -> None:
    """Adds the model under its name and its aliases."""
    for name in (model.name, *model.aliases):
        if name in found:
            raise value.wrong(f"{name!r} is already a name of the model {found[name].name!r}; change one")
        found[name] = model


def _tokenizer(value: Value) -> Path:
    """Returns the tokenizer's path; a relative one starts at the file's own directory."""
    path = value.file.parent / Path(value.text()).expanduser()
    if not path.is_file() and not (path / "tokenizer.json").is_file():
        raise value.wrong(f"{path} is neither a tokenizer.json nor a directory with one")
    return path.resolve()
