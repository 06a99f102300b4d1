"""Reads providers.yaml: RunPod endpoints by id, hosted providers by preset or URL, with own prices."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date

from vllm_service.catalog.model import OnDisconnect, Provider, ProviderKind, WorkersMin
from vllm_service.catalog.presets import PRESETS, RUNPOD_API_URL, RUNPOD_MANAGEMENT_URL
from vllm_service.catalog.yaml_file import Section, Value
from vllm_service.domain.pricing import SecondPrice, TokenPrice
from vllm_service.domain.urls import url_fault

COMMON = (
    *("enabled", "api_key_env", "on_disconnect", "region", "tags", "max_connections"),
    *("connect_timeout_seconds", "first_byte_timeout_seconds", "idle_timeout_seconds"),
)
SCALING_KEYS = ("scaling", "workers_min", "management_url")
RUNPOD_KEYS = ("endpoint_id", "api_url", "usd_per_second", "as_of", "expected", *SCALING_KEYS, *COMMON)
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
    """Returns the entries by name; None for those with `enabled: false`. Raises ConfigurationError."""
    section = root.section(("providers",)).need("providers").section()
    entries = {name: _entry(name, value, environment) for name, value in section}
    if not entries:
        raise section.value.wrong(
            "there is no provider; add at least one: NAME: {preset: openai, api_key_env: OPENAI_API_KEY}"
        )
    return entries


def read_price(value: Value) -> TokenPrice:
    """Returns the price `{input, output, cached_input?, as_of}`, in USD per million tokens.

    Without cached_input, cached tokens cost as much as others.
    """
    section = value.section(("input", "output", "cached_input", "as_of"))
    _as_of(section)
    cached = section.get("cached_input")
    try:
        return TokenPrice.per_million(
            section.need("input").number(),
            section.need("output").number(),
            None if cached is None else cached.number(),
        )
    except ValueError as error:
        raise value.wrong(str(error)) from None


def _entry(name: str, value: Value, environment: Mapping[str, str]) -> ProviderEntry | None:
    any_keys = value.section()
    if any_keys.get("api_key"):
        raise any_keys.need("api_key").wrong(
            "a key must not stand in a file; put it into an environment variable, and its name here: api_key_env: NAME"
        )
    enabled = any_keys.get("enabled")
    if enabled is not None and not enabled.switch():
        return None
    if any_keys.get("endpoint_id"):
        return _runpod(name, value.section(RUNPOD_KEYS), environment)
    return _hosted(name, value.section(HOSTED_KEYS), environment)


def _runpod(name: str, section: Section, environment: Mapping[str, str]) -> ProviderEntry:
    api_url = section.get("api_url")
    control_url = f"{RUNPOD_API_URL if api_url is None else _url(api_url)}/v2/{_endpoint_id(section)}"
    price = None
    if (per_second := section.get("usd_per_second")) is not None:
        _as_of(section)
        try:
            price = SecondPrice.per_second(per_second.number())
        except ValueError as error:
            raise per_second.wrong(str(error)) from None
    if section.get("api_key_env") is None and api_url is None:
        raise section.value.wrong("api_key_env is missing; RunPod requires a key: api_key_env: RUNPOD_API_KEY")
    provider = _provider(
        name,
        section,
        environment,
        kind=ProviderKind.RUNPOD,
        base_url=f"{control_url}/openai/v1",
        control_url=control_url,
        second_price=price,
    )
    expected = _expected(section)
    workers_min = _workers_min(section, RUNPOD_MANAGEMENT_URL if api_url is None else _url(api_url), dict(expected))
    return ProviderEntry(replace(provider, expected=expected, workers_min=workers_min))


def _expected(section: Section) -> tuple[tuple[str, float], ...]:
    value = section.get("expected")
    if value is None:
        return ()
    given = value.section((*EXPECTED_COUNTS, *EXPECTED_SECONDS))
    counts = [(name, float(count.count())) for name in EXPECTED_COUNTS if (count := given.get(name)) is not None]
    numbers = [(name, given.positive(name, 1.0)) for name in EXPECTED_SECONDS if given.get(name) is not None]
    return (*counts, *numbers)


def _workers_min(section: Section, url: str, expected: Mapping[str, float]) -> WorkersMin | None:
    """Returns what the gateway needs to set workersMin; None with warm-up jobs. url: RunPod's management API."""
    scaling, base, own_url = (section.get(key) for key in SCALING_KEYS)
    if scaling is None or scaling.choice(SCALING) == WARM_UP_JOBS:
        for unused in (base, own_url):
            if unused is not None:
                raise unused.wrong(f"valid only with scaling: {WORKERS_MIN}; set that at this provider, or remove this")
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
    return WorkersMin(f"{origin}/v1/endpoints/{_endpoint_id(section)}", workers)


def _count_from_zero(value: Value) -> int:
    number = value.number()
    if number != int(number):
        raise value.wrong(f"expected a whole number, got {number}")
    return int(number)


def _hosted(name: str, section: Section, environment: Mapping[str, str]) -> ProviderEntry:
    preset_name = section.get("preset")
    preset = None if preset_name is None else PRESETS[preset_name.choice(PRESETS)]
    own_url = section.get("base_url")
    if own_url is not None:
        base_url = _url(own_url)
    elif preset is not None:
        base_url = preset.base_url
    else:
        raise section.value.wrong(
            f"the provider has no address; set preset (one of {', '.join(PRESETS)}), base_url (of any "
            "OpenAI-compatible API, with /v1), or endpoint_id (RunPod)"
        )
    prices = section.get("prices")
    return ProviderEntry(
        _provider(name, section, environment, kind=ProviderKind.HOSTED, base_url=base_url),
        {} if prices is None else {model: read_price(value) for model, value in prices.section()},
        section.text("price_source") or (preset.price_source if preset else None),
    )


def _provider(
    name: str,
    section: Section,
    environment: Mapping[str, str],
    *,
    kind: ProviderKind,
    base_url: str,
    control_url: str | None = None,
    second_price: SecondPrice | None = None,
) -> Provider:
    on_disconnect = section.get("on_disconnect")
    connections = section.get("max_connections")
    return Provider(
        name=name,
        kind=kind,
        base_url=base_url,
        api_key=_key(section.get("api_key_env"), environment),
        control_url=control_url,
        second_price=second_price,
        on_disconnect=OnDisconnect(on_disconnect.choice([*OnDisconnect])) if on_disconnect else OnDisconnect.STOP,
        connect_timeout_seconds=section.positive("connect_timeout_seconds", 5.0),
        first_byte_timeout_seconds=section.positive("first_byte_timeout_seconds", 120.0),
        idle_timeout_seconds=section.positive("idle_timeout_seconds", 60.0),
        max_connections=1024 if connections is None else connections.count(),
        region=section.text("region"),
        tags=frozenset(section.words("tags")),
    )


def _key(variable: Value | None, environment: Mapping[str, str]) -> str | None:
    if variable is None:
        return None
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


def _endpoint_id(section: Section) -> str:
    """Returns the endpoint's id, which is a part of its URLs."""
    value = section.need("endpoint_id")
    if not _ENDPOINT_ID.fullmatch(value.text()):
        raise value.wrong("expected an endpoint's id, of letters, digits, - and _ alone, as RunPod's console shows it")
    return value.text()


def _as_of(section: Section) -> None:
    """Raises ConfigurationError for a price without a date: its age shows when it has to be checked again."""
    value = section.need("as_of")
    try:
        date.fromisoformat(value.text())
    except ValueError:
        raise value.wrong("expected a date like 2026-11-21") from None
