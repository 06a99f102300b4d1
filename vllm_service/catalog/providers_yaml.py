"""Reads providers.yaml: RunPod endpoints by id, hosted providers by preset or URL, with own prices."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal

from vllm_service.catalog.model import OnDisconnect, PromptCache, Provider, ProviderKind, WorkersMin
from vllm_service.catalog.presets import PRESETS, RUNPOD_API_URL, RUNPOD_MANAGEMENT_URL
from vllm_service.catalog.worker_prices import read_gpu_prices
from vllm_service.catalog.yaml_file import Section, Value
from vllm_service.domain.pricing import SecondPrice, TokenPrice
from vllm_service.domain.urls import is_plain_beyond_this_machine, url_fault

COMMON = (
    *("enabled", "api_key_env", "allow_plain_http", "on_disconnect", "region", "tags", "max_connections"),
    *("stream_options", "prompt_cache"),
    *("connect_timeout_seconds", "first_byte_timeout_seconds", "idle_timeout_seconds", "queue_timeout_seconds"),
)
#: The keys whose URLs get the provider's key.
ADDRESS_KEYS = ("base_url", "api_url", "management_url")
SCALING_KEYS = ("scaling", "workers_min", "management_url")
PRICE_KEYS = ("usd_per_second", "gpu_prices", "as_of")
RUNPOD_KEYS = ("endpoint_id", "api_url", "expected", *PRICE_KEYS, *SCALING_KEYS, *COMMON)
#: How the gateway gets an endpoint to the router's worker target.
WARM_UP_JOBS = "warm_up_jobs"
WORKERS_MIN = "workers_min"
#: The first is the default.
SCALING = (WARM_UP_JOBS, WORKERS_MIN)
#: The router's first estimates of an endpoint, until it has measured: see docs/providers.md.
EXPECTED_COUNTS = ("slots", "max_workers", "always_on_workers")
EXPECTED_SECONDS = (
    *("prefill_tokens_per_second", "decode_seconds", "decode_seconds_per_batch"),
    *("cold_start_seconds", "idle_timeout_seconds", "overhead_seconds"),
)
_ENDPOINT_ID = re.compile(r"[A-Za-z0-9_-]+")
_HEADER_TEXT = re.compile(r"[!-~]+")
Expected = tuple[tuple[str, float], ...]
GpuPrices = tuple[tuple[str, SecondPrice], ...]
HOSTED_KEYS = ("preset", "base_url", "price_source", "prices", *COMMON)


@dataclass(frozen=True)
class ProviderEntry:
    """A provider with the sources of its models' prices."""

    provider: Provider
    #: The file's own, by the model's name at the provider. They are used before the price package.
    prices: Mapping[str, TokenPrice] = field(default_factory=dict)
    #: The provider's name in the price package; None: only the file's prices.
    price_source: str | None = None


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
    return entries


def read_price(value: Value) -> TokenPrice:
    """Returns the price `{input, output, cached_input?, as_of}`, in USD per million tokens.

    Without cached_input, cached tokens cost as much as others.
    """
    section = value.section(("input", "output", "cached_input", "as_of"))
    section.read_needed("as_of", _date, None)
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
    known = RUNPOD_KEYS if any_keys.get("endpoint_id") else HOSTED_KEYS
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
    read = _runpod if any_keys.get("endpoint_id") else _hosted
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
        if url is not None and is_plain_beyond_this_machine(section.read(name, _url, "")):
            section.value.faults.add(
                url.wrong(
                    "over http the key of api_key_env could be read on the way; write https, or allow_plain_http: "
                    "true at this provider where the whole network is trusted"
                )
            )


def _runpod(name: str, section: Section, environment: Mapping[str, str]) -> ProviderEntry:
    api_url = section.read("api_url", _url, RUNPOD_API_URL)
    control_url = f"{api_url}/v2/{section.read_needed('endpoint_id', _endpoint_id, '')}"
    price = section.read("usd_per_second", _second_price, None)
    if price is not None:
        section.read_needed("as_of", _date, None)
    if section.get("api_key_env") is None and section.get("api_url") is None:
        section.value.faults.add(
            section.value.wrong("api_key_env is missing; RunPod requires a key: api_key_env: RUNPOD_API_KEY")
        )
    provider = _provider(
        name,
        section,
        environment,
        kind=ProviderKind.RUNPOD,
        base_url=f"{control_url}/openai/v1",
        control_url=control_url,
        second_price=price,
        prompt_cache=PromptCache.VLLM,
    )
    none: GpuPrices = ()
    gpu_prices = section.read("gpu_prices", read_gpu_prices, none)
    if price is None and (given := section.get("gpu_prices")) is not None:
        section.value.faults.add(
            given.wrong("usd_per_second is missing at this provider; it is the price of workers on any other type")
        )
    nothing: Expected = ()
    expected = section.read("expected", _expected, nothing)
    management_url = RUNPOD_MANAGEMENT_URL if section.get("api_url") is None else api_url
    workers_min = _workers_min(section, management_url, dict(expected))
    return ProviderEntry(replace(provider, gpu_prices=gpu_prices, expected=expected, workers_min=workers_min))


def _expected(value: Value) -> Expected:
    given = value.section((*EXPECTED_COUNTS, *EXPECTED_SECONDS))
    counts = [
        (name, float(given.read(name, Value.count, 1))) for name in EXPECTED_COUNTS if given.get(name) is not None
    ]
    numbers = [(name, given.positive(name, 1.0)) for name in EXPECTED_SECONDS if given.get(name) is not None]
    return (*counts, *numbers)


def _second_price(value: Value) -> SecondPrice:
    try:
        return SecondPrice.per_second(value.number())
    except ValueError as error:
        raise value.wrong(str(error)) from None


def _workers_min(section: Section, url: str, expected: Mapping[str, float]) -> WorkersMin | None:
    """Returns what the gateway needs to set workersMin; None with warm-up jobs. url: RunPod's management API."""
    scaling, base, own_url = (section.get(key) for key in SCALING_KEYS)
    if scaling is None or scaling.choice(SCALING) == WARM_UP_JOBS:
        for unused in (base, own_url):
            if unused is not None:
                section.value.faults.add(
                    unused.wrong(f"valid only with scaling: {WORKERS_MIN}; set that at this provider, or remove this")
                )
        return None
    if section.get("usd_per_second") is None:
        raise scaling.wrong(
            "usd_per_second is missing at this provider; without a price the router has no worker target"
        )
    if expected.get("always_on_workers"):
        raise scaling.wrong("the gateway sets workersMin itself; remove expected.always_on_workers, or this")
    workers = 0 if base is None else _count_from_zero(base)
    if base is not None and workers > expected.get("max_workers", workers):
        raise base.wrong(f"{workers} is more than expected.max_workers, which is {expected['max_workers']:g}; lower it")
    origin = url if own_url is None else _url(own_url).removesuffix("/v1")
    return WorkersMin(f"{origin}/v1/endpoints/{section.need('endpoint_id').text()}", workers)


def _count_from_zero(value: Value) -> int:
    number = value.number()
    if number != int(number):
        raise value.wrong(f"expected a whole number, got {number}")
    return int(number)


def _hosted(name: str, section: Section, environment: Mapping[str, str]) -> ProviderEntry:
    preset = section.read("preset", lambda value: PRESETS[value.choice(PRESETS)], None)
    if section.get("preset") is None and section.get("base_url") is None:
        section.value.faults.add(
            section.value.wrong(
                f"the provider has no address; set preset (one of {', '.join(PRESETS)}), base_url (of any "
                "OpenAI-compatible API, with /v1), or endpoint_id (RunPod)"
            )
        )
    base_url = section.read("base_url", _url, preset.base_url if preset else "")
    prompt_cache = preset.prompt_cache if preset else PromptCache.SHARED
    return ProviderEntry(
        _provider(name, section, environment, kind=ProviderKind.HOSTED, base_url=base_url, prompt_cache=prompt_cache),
        section.read("prices", _prices, {}),
        section.text("price_source") or (preset.price_source if preset else None),
    )


def _prices(value: Value) -> dict[str, TokenPrice]:
    prices: dict[str, TokenPrice] = {}
    for model, price in value.section():
        with value.faults:
            prices[model] = read_price(price)
    return prices


def _provider(
    name: str,
    section: Section,
    environment: Mapping[str, str],
    *,
    kind: ProviderKind,
    base_url: str,
    control_url: str | None = None,
    second_price: SecondPrice | None = None,
    prompt_cache: PromptCache,
) -> Provider:
    return Provider(
        name=name,
        kind=kind,
        base_url=base_url,
        api_key=section.read("api_key_env", lambda value: _key(value, environment), None),
        control_url=control_url,
        second_price=second_price,
        on_disconnect=OnDisconnect(section.choice("on_disconnect", [*OnDisconnect], OnDisconnect.STOP)),
        connect_timeout_seconds=section.positive("connect_timeout_seconds", 5.0),
        first_byte_timeout_seconds=section.positive("first_byte_timeout_seconds", 120.0),
        idle_timeout_seconds=section.positive("idle_timeout_seconds", 60.0),
        max_connections=section.read("max_connections", Value.count, 1024),
        queue_timeout_seconds=(
            None if section.get("queue_timeout_seconds") is None else section.positive("queue_timeout_seconds", 5.0)
        ),
        stream_options=section.read("stream_options", Value.switch, None),
        prompt_cache=PromptCache(section.choice("prompt_cache", [*PromptCache], prompt_cache)),
        region=section.text("region"),
        tags=frozenset(section.words("tags")),
    )


def _key(variable: Value, environment: Mapping[str, str]) -> str:
    if key := environment.get(variable.text(), "").strip():
        if not _HEADER_TEXT.fullmatch(key):
            raise variable.wrong(
                f"the environment variable {variable.text()} holds a character that no header can carry: a space, a "
                "line's end, or one beyond ASCII; set it to the key alone"
            )
        return key
    raise variable.wrong(
        f"the environment variable {variable.text()} is not set; set it, or write enabled: false at this provider"
    )


def _url(value: Value) -> str:
    if (fault := url_fault(value.text())) is not None:
        raise value.wrong(fault)
    return value.text().rstrip("/")


def _endpoint_id(value: Value) -> str:
    """Returns the endpoint's id, which is a part of its URLs."""
    if not _ENDPOINT_ID.fullmatch(value.text()):
        raise value.wrong("expected an endpoint's id, of letters, digits, - and _ alone, as RunPod's console shows it")
    return value.text()


def _date(value: Value) -> None:
    """Raises ConfigurationError for a price's date that is none: its age shows when it has to be checked again."""
    try:
        date.fromisoformat(value.text())
    except ValueError:
        raise value.wrong("expected a date like 2026-11-21") from None
