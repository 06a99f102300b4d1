"""Reads providers.yaml: RunPod endpoints by id, hosted providers by preset or URL, with own prices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from decimal import Decimal

from vllm_service.catalog.model import PromptCache, ProviderKind
from vllm_service.catalog.presets import PRESETS
from vllm_service.catalog.provider_entry import COMMON, ProviderEntry, read_date, read_provider, read_url
from vllm_service.catalog.runpod_yaml import RUNPOD_KEYS, read_runpod
from vllm_service.catalog.yaml_file import Section, Value
from vllm_service.domain.pricing import TokenPrice
from vllm_service.domain.urls import is_plain_beyond_this_machine

#: The keys whose URLs get the provider's key.
ADDRESS_KEYS = ("base_url", "api_url", "management_url")
HOSTED_KEYS = ("preset", "base_url", "price_source", "prices", *COMMON)


def read_providers(root: Value, environment: Mapping[str, str]) -> dict[str, ProviderEntry | None]:
    """Returns the entries by name; None for those with `enabled: false`, and for wrong ones, which add faults.

    Raises ConfigurationError for a file of another form.
    """
    section = root.section(("providers",)).need("providers").section()
    entries: dict[str, ProviderEntry | None] = {}
    for name, value in section:
        entries[name] = None  # where it is wrong; its offers then add no errors of their own
        with root.faults:
            entries[name] = _entry(name, value, environment)
    if not entries and not root.faults:
        raise section.value.wrong(
            "there is no provider; add at least one: NAME: {preset: openai, api_key_env: OPENAI_API_KEY}"
        )
    return entries | _warned(entry for entry in entries.values() if entry is not None)


def _warned(entries: Iterable[ProviderEntry]) -> dict[str, ProviderEntry]:
    """Returns, by name, the entries whose endpoint an entry before has too, with a warning."""
    first: dict[str, str] = {}
    found: dict[str, ProviderEntry] = {}
    for entry in entries:
        name, management = entry.provider.name, entry.provider.management
        if management is None or (before := first.setdefault(management.url, name)) == name:
            continue
        warning = (
            f"{name}: {before} is the same endpoint, so the seconds of its workers and its bill are booked twice; "
            "name one provider in all offers, and remove the other"
        )
        found[name] = replace(entry, warnings=(*entry.warnings, warning))
    return found


def read_price(value: Value) -> TokenPrice:
    """Returns the price `{input, output, cached_input?, as_of}`, in USD per million tokens.

    Without cached_input, cached tokens cost as much as others.
    """
    section = value.section(("input", "output", "cached_input", "as_of"))
    section.read_needed("as_of", read_date, None)
    try:
        return TokenPrice.per_million(
            section.read_needed("input", Value.number, Decimal(0)),
            section.read_needed("output", Value.number, Decimal(0)),
            section.read("cached_input", Value.number, None),
        )
    except ValueError as error:
        raise value.wrong(str(error)) from None


def _entry(name: str, value: Value, environment: Mapping[str, str]) -> ProviderEntry | None:
    any_keys = value.section()
    is_runpod = any_keys.get("endpoint_id") is not None or any_keys.get("type") is not None
    known = RUNPOD_KEYS if is_runpod else HOSTED_KEYS
    if key := any_keys.get("api_key"):
        known = (*known, "api_key")
        value.faults.add(
            key.wrong(
                "a key must not stand in a file; put it into an environment variable, and its name here: "
                "api_key_env: NAME"
            )
        )
    if not any_keys.read("enabled", Value.switch, True):
        return None
    read = read_runpod if is_runpod else _hosted
    section = value.section(known)
    entry = read(name, section, environment)
    if not section.read("allow_plain_http", Value.switch, False):
        _refuse_plain_http(section)
    return entry


def _refuse_plain_http(section: Section) -> None:
    """Adds a fault for each address to which the provider's key would go without TLS, except on this machine."""
    if section.get("api_key_env") is None:
        return
    for name in ADDRESS_KEYS:
        url = section.get(name)
        if url is not None and is_plain_beyond_this_machine(section.read(name, read_url, "")):
            section.value.faults.add(
                url.wrong(
                    "over http the key of api_key_env could be read on the way; write https, or allow_plain_http: "
                    "true at this provider where the whole network is trusted"
                )
            )


def _hosted(name: str, section: Section, environment: Mapping[str, str]) -> ProviderEntry:
    preset = section.read("preset", lambda value: PRESETS[value.choice(PRESETS)], None)
    if section.get("preset") is None and section.get("base_url") is None:
        section.value.faults.add(
            section.value.wrong(
                f"the provider has no address; set preset (one of {', '.join(PRESETS)}), base_url (of any "
                "OpenAI-compatible API, with /v1), or endpoint_id (RunPod)"
            )
        )
    base_url = section.read("base_url", read_url, preset.base_url if preset else "")
    prompt_cache = preset.prompt_cache if preset else PromptCache.SHARED
    return ProviderEntry(
        read_provider(
            name, section, environment, kind=ProviderKind.HOSTED, base_url=base_url, prompt_cache=prompt_cache
        ),
        section.read("prices", _prices, {}),
        section.text("price_source") or (preset.price_source if preset else None),
    )


def _prices(value: Value) -> dict[str, TokenPrice]:
    prices: dict[str, TokenPrice] = {}
    for model, price in value.section():
        with value.faults:
            prices[model] = read_price(price)
    return prices
