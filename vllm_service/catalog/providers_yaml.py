"""The entries of providers.yaml: RunPod endpoints by id, hosted providers by preset or URL, with own prices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from urllib.parse import urlsplit

from vllm_service.catalog.model import OnDisconnect, Provider, ProviderKind, WorkersMin
from vllm_service.catalog.presets import PRESETS, RUNPOD_API_URL, RUNPOD_MANAGEMENT_URL
from vllm_service.catalog.yaml_file import Section, Value
from vllm_service.domain.pricing import SecondPrice, TokenPrice

COMMON = (
    *("enabled", "api_key_env", "on_disconnect", "region", "tags", "max_connections"),
    *("connect_timeout_seconds", "first_byte_timeout_seconds", "idle_timeout_seconds"),
)
SCALING_KEYS = ("scaling", "workers_min", "management_url")
RUNPOD_KEYS = ("endpoint_id", "api_url", "usd_per_second", "as_of", "expected", *SCALING_KEYS, *COMMON)
# How an endpoint gets the workers that the router wants: the first is the default.
WARM_UP_JOBS, WORKERS_MIN = SCALING = ("warm_up_jobs", "workers_min")
# Where the router's estimates of an endpoint start, until it has measured: see docs/providers.md.
EXPECTED_COUNTS = ("slots", "max_workers", "always_on_workers")
EXPECTED_SECONDS = (
    *("prefill_tokens_per_second", "decode_seconds", "decode_seconds_per_batch"),
    *("cold_start_seconds", "idle_timeout_seconds", "overhead_seconds"),
)
HOSTED_KEYS = ("preset", "base_url", "price_source", "prices", *COMMON)


@dataclass(frozen=True)
class ProviderEntry:
    """A provider, and where its models' prices come from: the file's own before the package's `price_source`."""

    provider: Provider
    prices: Mapping[str, TokenPrice] = field(default_factory=dict)
    price_source: str | None = None


def read_providers(root: Value, environment: Mapping[str, str]) -> dict[str, ProviderEntry | None]:
    """By name, None for those with `enabled: false`. Raises ConfigurationError."""
    section = root.section(("providers",)).need("providers").section()
    entries = {name: _entry(name, value, environment) for name, value in section}
    if not entries:
        raise section.place.wrong("there is no provider; name at least one")
    return entries


def read_price(value: Value) -> TokenPrice:
    """`{input, output, cached_input?, as_of}` in USD per million tokens; cached_input unset is no discount."""
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
        raise any_keys.need("api_key").wrong("keys do not belong into files; write api_key_env: NAME_OF_A_VARIABLE")
    enabled = any_keys.get("enabled")
    if enabled is not None and not enabled.switch():
        return None
    if any_keys.get("endpoint_id"):
        return _runpod(name, value.section(RUNPOD_KEYS), environment)
    return _hosted(name, value.section(HOSTED_KEYS), environment)


def _runpod(name: str, section: Section, environment: Mapping[str, str]) -> ProviderEntry:
    api_url = section.get("api_url")
    control_url = f"{RUNPOD_API_URL if api_url is None else _url(api_url)}/v2/{section.need('endpoint_id').text()}"
    price = None
    if (per_second := section.get("usd_per_second")) is not None:
        _as_of(section)
        try:
            price = SecondPrice.per_second(per_second.number())
        except ValueError as error:
            raise per_second.wrong(str(error)) from None
    if section.get("api_key_env") is None and api_url is None:
        raise section.place.wrong("api_key_env is missing; RunPod wants a key: api_key_env: RUNPOD_API_KEY")
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
    """url: of the management API, unless the section names another."""
    scaling, base, own_url = (section.get(key) for key in SCALING_KEYS)
    if scaling is None or scaling.choice(SCALING) == WARM_UP_JOBS:
        for unused in (base, own_url):
            if unused is not None:
                raise unused.wrong(f"only with scaling: {WORKERS_MIN}; write that at this provider, or take this out")
        return None
    if section.get("usd_per_second") is None:
        raise scaling.wrong("usd_per_second is missing; without a price the router never says how many workers")
    if expected.get("always_on_workers"):
        raise scaling.wrong("the gateway sets workersMin itself; take expected.always_on_workers out, or this")
    workers = 0 if base is None else _count_from_zero(base)
    if base is not None and workers > expected.get("max_workers", workers):
        raise base.wrong(f"more than expected.max_workers, which is {expected['max_workers']:g}")
    origin = url if own_url is None else _url(own_url).removesuffix("/v1")
    return WorkersMin(f"{origin}/v1/endpoints/{section.need('endpoint_id').text()}", workers)


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
        raise section.place.wrong(
            f"what is this? Give preset: ({', '.join(PRESETS)}), base_url: (any OpenAI-compatible URL, with /v1), "
            "or endpoint_id: (RunPod)"
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
    leaving, connections = section.get("on_disconnect"), section.get("max_connections")
    return Provider(
        name=name,
        kind=kind,
        base_url=base_url,
        api_key=_key(section.get("api_key_env"), environment),
        control_url=control_url,
        second_price=second_price,
        on_disconnect=OnDisconnect.STOP if leaving is None else OnDisconnect(leaving.choice([*OnDisconnect])),
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
        return key
    raise variable.wrong(f"{variable.text()} is not set; export it, or write enabled: false at this provider")


def _url(value: Value) -> str:
    parts = urlsplit(value.text())
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
        raise value.wrong("expected a URL like https://host/v1, without a user or a query")
    return value.text().rstrip("/")


def _as_of(section: Section) -> None:
    """Prices in files are dated: without a date nobody knows when to look again."""
    value = section.need("as_of")
    try:
        date.fromisoformat(value.text())
    except ValueError:
        raise value.wrong("expected a date like 2026-11-21") from None
