"""providers.yaml and models.yaml become a catalog, or an error that names file, line and path and shows no secret."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.vllm_service.catalog.support import KEYS, MODELS, PROVIDERS, Configured
from vllm_service.catalog.load import load, read
from vllm_service.catalog.model import OnDisconnect, PromptCache, ProviderKind, WorkersMin
from vllm_service.catalog.models_yaml import MODEL_KEYS
from vllm_service.catalog.presets import PRESETS
from vllm_service.catalog.providers_yaml import HOSTED_KEYS
from vllm_service.catalog.runpod_yaml import RUNPOD_KEYS
from vllm_service.data import Kind, shipped
from vllm_service.domain.pricing import SecondPrice, TokenPrice
from vllm_service.errors import ConfigurationError
from vllm_service.settings import ServiceSettings

ROOT = Path(__file__).resolve().parents[3]


def test_a_runpod_endpoint_is_its_id_and_a_price_per_second(configured: Configured) -> None:
    own = configured.read().catalog.providers["own"]
    assert own.kind is ProviderKind.RUNPOD
    assert own.base_url == "https://api.runpod.ai/v2/abc/openai/v1"
    assert own.control_url == "https://api.runpod.ai/v2/abc"
    assert own.second_price == SecondPrice(310)
    assert own.api_key == "runpod-secret"


def with_own(*lines: str) -> str:
    """The file with these lines more at the endpoint; they are its lines 7, 8, ..."""
    return PROVIDERS.replace("  groq:", "".join(f"    {line}\n" for line in lines) + "  groq:")


@pytest.mark.parametrize(
    ("lines", "managed"),
    [
        ([], None),
        (["scaling: warm_up_jobs"], None),
        (["scaling: workers_min"], WorkersMin(0)),
        (["scaling: workers_min", "workers_min: 2"], WorkersMin(2)),
        (["scaling: workers_min", "workers_min: 0"], WorkersMin(0)),
    ],
)
def test_an_endpoints_workers_min_follows_the_router_where_the_file_says_so(
    configured: Configured, lines: list[str], managed: WorkersMin | None
) -> None:
    assert configured.read(with_own(*lines)).catalog.providers["own"].workers_min == managed


@pytest.mark.parametrize(
    ("lines", "url"),
    [
        ([], "https://api.runpod.io/v2/serverless/abc"),
        (["management_api: v2"], "https://api.runpod.io/v2/serverless/abc"),
        (["api_url: https://x:1"], "https://x:1/v2/serverless/abc"),
        (["api_url: https://x:1", "management_url: https://y:2/v2/"], "https://y:2/v2/serverless/abc"),
        (["management_url: https://y:2"], "https://y:2/v2/serverless/abc"),
        (["management_api: v1", "api_url: https://x:1"], "https://x:1/v1/endpoints/abc"),
        (["management_api: v1", "management_url: https://y:2/v1/"], "https://y:2/v1/endpoints/abc"),
        (
            ["management_api: v1", "management_url: https://rest.runpod.io/v1"],
            "https://rest.runpod.io/v1/endpoints/abc",
        ),
    ],
)
def test_every_endpoint_is_managed_over_version_2_unless_the_file_says_version_1_which_warns(
    configured: Configured, lines: list[str], url: str
) -> None:
    loaded = configured.read(with_own(*lines))
    management = loaded.catalog.providers["own"].management
    assert management is not None
    assert management.url == url
    warned = [warning for warning in loaded.warnings if "management_api" in warning]
    assert len(warned) == ("/v1/" in url)
    assert all(warning.startswith("provider own: ") and "remove the line" in warning for warning in warned)
    assert loaded.catalog.providers["groq"].management is None


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (["scaling: workersMin"], r"yaml:7: providers\.own\.scaling: .*expected one of warm_up_jobs, workers_min"),
        (["workers_min: 1"], r"yaml:7: providers\.own\.workers_min: valid only with scaling: workers_min; set that"),
        (
            ["scaling: workers_min", "expected: {always_on_workers: 1}"],
            r"yaml:7: .*scaling: .*remove expected\.always_on_workers",
        ),
        (["scaling: workers_min", "workers_min: 1.5"], r"yaml:8: .*workers_min: expected a whole number"),
        (["scaling: workers_min", "workers_min: -1"], r"yaml:8: .*workers_min: .*at least 0"),
        (["scaling: workers_min", "workers_min: 3", "expected: {max_workers: 2}"], r"yaml:8: .*which is 2"),
        (["management_url: rest.runpod.io"], r"yaml:7: .*management_url: expected a URL"),
        (["management_url: http://me:hunter2@x"], r"yaml:7: .*management_url: expected a URL"),
        (["management_url: https://rest.runpod.io/v1"], r"yaml:7: .*management_url: .*is retired; remove the line"),
        (["management_api: v3"], r"yaml:7: .*management_api: .*expected one of v2, v1"),
        (["management_api: v1"], r"yaml:7: .*management_api: RunPod retired version 1.*; remove this line, or set"),
    ],
)
def test_what_is_wrong_with_the_scaling_is_named(configured: Configured, lines: list[str], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint) as refused:
        configured.read(with_own(*lines))
    assert "hunter2" not in refused.value.message


def test_workers_cannot_follow_a_router_that_knows_no_price(configured: Configured) -> None:
    without = with_own("scaling: workers_min").replace("    usd_per_second: 0.00031\n    as_of: 2026-11-21\n", "", 1)
    with pytest.raises(ConfigurationError, match=r"yaml:5: providers\.own\.scaling: usd_per_second is missing"):
        configured.read(without)


def test_hosted_providers_are_presets_or_urls(configured: Configured) -> None:
    providers = configured.read().catalog.providers
    assert providers["groq"].base_url == "https://api.groq.com/openai/v1"
    assert providers["groq"].api_key is None
    assert providers["mine"].base_url == "http://127.0.0.1:9/v1"
    assert providers["mine"].on_disconnect is OnDisconnect.STOP


def test_offers_keep_their_order_and_get_their_prices(configured: Configured) -> None:
    loaded = configured.read()
    own, groq, mine = loaded.catalog.models["llama"].offers
    assert own.price is None
    assert groq.price == TokenPrice(50_000, 80_000)
    assert mine.price == TokenPrice(100_000, 200_000, 25_000)
    assert mine.weight == 2
    assert loaded.warnings == ()


def test_a_model_is_found_under_its_aliases(configured: Configured) -> None:
    models = configured.read().catalog.models
    assert models["gpt-3.5-turbo"] is models["llama"]


def test_prices_of_ones_own_win_over_the_package(configured: Configured) -> None:
    own_price = "groq: {preset: groq, prices: {llama-3.1-8b-instant: {input: 1, output: 2, as_of: 2026-11-21}}}"
    loaded = configured.read(PROVIDERS.replace("groq: {preset: groq}", own_price))
    assert loaded.catalog.models["llama"].offers[1].price == TokenPrice(1_000_000, 2_000_000)


def test_an_unknown_price_stays_unknown_and_says_where(configured: Configured) -> None:
    loaded = configured.read(models=MODELS.replace("llama-3.1-8b-instant", "llama-9").replace("small", "large"))
    assert [offer.price for offer in loaded.catalog.models["llama"].offers] == [None] * 3
    unlisted, unset = loaded.warnings
    assert unlisted == "models.llama.offers[1]: price unknown: genai-prices lists no llama-9 at groq"
    assert "prices.large at providers.mine" in unset


@pytest.mark.parametrize(
    ("where", "setting", "price"),
    [
        ("baseline: openai/gpt-4o-mini\n", {}, TokenPrice(150_000, 600_000, 75_000)),
        ("", {"BASELINE_MODEL": "openai/gpt-4o-mini"}, TokenPrice(150_000, 600_000, 75_000)),
        ("baseline: mine/small\n", {"BASELINE_MODEL": "openai/gpt-4o-mini"}, TokenPrice(100_000, 200_000, 25_000)),
        ("", {}, None),
    ],
)
def test_the_baseline_is_the_files_or_the_settings(
    configured: Configured, where: str, setting: dict[str, str], price: TokenPrice | None
) -> None:
    configured.write(models=where + MODELS)
    assert read(configured.settings(**setting)).catalog.models["llama"].baseline_price == price


def test_disabled_providers_need_no_key_and_take_their_offers_with_them(configured: Configured) -> None:
    providers = PROVIDERS.replace("OWN_KEY", "NOWHERE_SET\n    enabled: false")
    loaded = configured.read(providers)
    assert "mine" not in loaded.catalog.providers
    assert [offer.provider for offer in loaded.catalog.models["llama"].offers] == ["own", "groq"]


@pytest.mark.parametrize(("endpoint_id", "is_warned"), [("abc", True), ("abd", False)])
def test_an_endpoint_under_two_names_is_warned_of(configured: Configured, endpoint_id: str, is_warned: bool) -> None:
    again = f"  again:\n    endpoint_id: {endpoint_id}\n    api_key_env: OWN_KEY\n"
    warnings = configured.read(PROVIDERS + again).warnings
    assert any("own is the same endpoint" in warning for warning in warnings) is is_warned


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("preset: groq", "preset: grok", r"providers\.yaml:7: providers\.groq\.preset: .*did you mean groq\?"),
        ("api_key_env: OWN_KEY", "api_key: sk-hunter2", r"providers\.yaml:10: providers\.mine\.api_key: .*api_key_env"),
        ("OWN_KEY", "OTHER_KEY", r"providers\.yaml:10: .*OTHER_KEY is not set"),
        ("http://127", "127", r"providers\.yaml:9: providers\.mine\.base_url: expected a URL"),
        ("http://127", "http://user:hunter2@127", r"providers\.yaml:9: providers\.mine\.base_url: expected a URL"),
        (
            "  groq: {preset: groq}",
            "  groq: {tags: [eu]}",
            r"providers\.yaml:7: providers\.groq: the provider has no address",
        ),
        ("{preset: groq}", "{preset: groq, tag: [eu]}", r"providers\.groq\.tag: unknown key \(did you mean tags\?\)"),
        ("  groq:", "  own:", r"providers\.yaml:7: providers\.own: the key is here twice"),
        ("0.00031", "cheap", r"providers\.yaml:5: providers\.own\.usd_per_second: expected a number"),
        ("0.00031", "0.0000000001", r"providers\.yaml:5: .*finer than"),
        ("0.00031", "1e9999999", r"providers\.yaml:5: .*more than can be counted"),
        ("0.025", "0.00000001", r"providers\.yaml:12: providers\.mine\.prices\.small: .*finer than"),
        ("output: 0.2, as_of: 2026-11-21", "output: 0.2", r"providers\.mine\.prices\.small: as_of is missing"),
        ("output: 0.2, as_of: 2026-11-21", "output: 0.2, as_of: today", r"expected a date"),
        ("endpoint_id: abc", "endpoint_id: [", r"providers\.yaml:\d+: the file is not valid YAML"),
        (PROVIDERS, "", r"providers\.yaml: the file is empty"),
        (PROVIDERS, "- a", r"providers\.yaml:1: expected keys and values"),
        (PROVIDERS, "providers: {}", r"providers\.yaml:1: providers: there is no provider"),
    ],
)
def test_what_is_wrong_with_providers_is_named(configured: Configured, old: str, new: str, complaint: str) -> None:
    assert old in PROVIDERS
    with pytest.raises(ConfigurationError, match=complaint) as refused:
        configured.read(PROVIDERS.replace(old, new, 1))
    shown = refused.value.message
    assert not any(secret in shown for secret in (*KEYS.values(), "hunter2"))


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("provider: groq", "provider: grog", r"models\.yaml:5: models\.llama\.offers\[1\]\.provider: .*mean groq"),
        ("provider: groq, ", "", r"models\.yaml:5: models\.llama\.offers\[1\]: provider is missing"),
        ("weight: 2", "weight: 0", r"models\.yaml:6: models\.llama\.offers\[2\]\.weight: .*above zero"),
        ("[gpt-3.5-turbo]", "[a, a]", r"is already a name of the model 'llama'|twice"),
        ("[gpt-3.5-turbo]", "gpt-3.5-turbo", r"models\.llama\.aliases: expected a list"),
        ("    aliases: [gpt-3.5-turbo]", "    context_length: 1.5", r"context_length: expected a whole number"),
        (MODELS, "models: {a: {offers: []}}", r"models\.a\.offers: there is no offer"),
        (MODELS, "models: {}", r"no model has an enabled provider"),
    ],
)
def test_what_is_wrong_with_models_is_named(configured: Configured, old: str, new: str, complaint: str) -> None:
    assert old in MODELS
    with pytest.raises(ConfigurationError, match=complaint):
        configured.read(models=MODELS.replace(old, new, 1))


def test_two_models_cannot_share_a_name(configured: Configured) -> None:
    other = "  gpt-3.5-turbo:\n    offers: [{provider: groq, model: m}]\n"
    with pytest.raises(ConfigurationError, match=r"models\.yaml:9: .*is already a name of the model 'llama'"):
        configured.read(models=MODELS + other)


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere/providers\.yaml: No such file.*example"):
        load(ServiceSettings.from_environment({"CONFIG_DIR": str(tmp_path / "nowhere")}))


def test_a_reload_that_fails_leaves_what_was_loaded(configured: Configured) -> None:
    before = load(configured.settings())
    configured.write(models="models: nonsense")
    with pytest.raises(ConfigurationError):
        load(configured.settings())
    assert before.models["llama"].offers[0].provider == "own"
    configured.write()
    assert load(configured.settings()) == before


def test_secrets_are_in_no_representation(configured: Configured) -> None:
    assert not any(secret in repr(configured.read()) for secret in KEYS.values())


def test_the_examples_are_valid_and_hold_no_unknown_price() -> None:
    providers = shipped(Kind.EXAMPLE)["providers"]
    keys = dict.fromkeys(re.findall(r"api_key_env: (\w+)", providers.read_text(encoding="utf-8")), "a-key")
    loaded = read(ServiceSettings.from_environment(keys | {"CONFIG_DIR": str(providers.parent)}))
    assert loaded.warnings == ()
    assert loaded.catalog.models["gpt-3.5-turbo"].name == "llama-3.1-8b"


def test_the_documentation_has_every_key() -> None:
    page = (ROOT / "docs" / "providers.md").read_text(encoding="utf-8")
    keys = {*RUNPOD_KEYS, *HOSTED_KEYS, *MODEL_KEYS}
    assert sorted(key for key in keys if f"`{key}`" not in page) == []
    assert sorted(name for name in PRESETS if f"`{name}`" not in page) == []


@pytest.mark.parametrize(
    ("text", "name", "cache"),
    [
        (PROVIDERS, "own", PromptCache.VLLM),
        (with_own("prompt_cache: shared"), "own", PromptCache.SHARED),
        (PROVIDERS, "groq", PromptCache.SHARED),
        (PROVIDERS + "  asked: {preset: openai}\n", "asked", PromptCache.OPENAI),
        (PROVIDERS + "  vllm: {base_url: http://x:1/v1, prompt_cache: vllm}\n", "vllm", PromptCache.VLLM),
        (PROVIDERS + "  vllm: {base_url: http://x:1/v1}\n", "vllm", PromptCache.SHARED),
    ],
)
def test_organisations_prompts_are_kept_apart_where_the_provider_is_known_to_do_so(
    configured: Configured, text: str, name: str, cache: PromptCache
) -> None:
    assert configured.read(text).catalog.providers[name].prompt_cache is cache
