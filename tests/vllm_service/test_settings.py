"""The environment becomes settings, or an error that names the variable; the documentation's table lists them all."""

from __future__ import annotations

import re
from dataclasses import fields
from ipaddress import ip_network
from pathlib import Path

import pytest

from vllm_service.errors import ConfigurationError
from vllm_service.settings import ServiceSettings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "configure.md"
ROW = re.compile(r"^\| `([A-Z_]+)` \| ([^|]*) \|", flags=re.MULTILINE)


def test_nothing_set_is_a_laptop() -> None:
    settings = ServiceSettings.from_environment({})
    assert (settings.host, settings.port) == ("127.0.0.1", 8090)
    assert settings.providers_path == Path("providers.yaml")
    assert settings.database_url is None
    assert not settings.response_cache


def test_what_is_set_is_read() -> None:
    settings = ServiceSettings.from_environment(
        {
            "SERVICE_HOST": "0.0.0.0",
            "REQUIRE_KEYS": "yes",
            "CONFIG_DIR": "/etc/service",
            "MODELS_FILE": "/srv/models.yaml",
            "TRUSTED_PROXIES": "10.0.0.0/8, 192.168.1.7",
            "LOG_LEVEL": "debug",
            "RESPONSE_CACHE_TTL_SECONDS": " 1.5 ",
            "METRICS": "off",
            "BASELINE_MODEL": "",
        }
    )
    assert settings.providers_path == Path("/etc/service/providers.yaml")
    assert settings.models_path == Path("/srv/models.yaml")
    assert settings.trusted_proxies == (ip_network("10.0.0.0/8"), ip_network("192.168.1.7"))
    assert settings.log_level == "DEBUG"
    assert settings.response_cache_ttl_seconds == 1.5
    assert not settings.metrics
    assert settings.baseline_model is None


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SERVICE_PORT", "70000"),
        ("SERVICE_PORT", "http"),
        ("SERVICE_WORKERS", "0"),
        ("MAX_BODY_BYTES", "-1"),
        ("GRACE_SECONDS", "nan"),
        ("GRACE_SECONDS", "inf"),
        ("RESPONSE_CACHE", "maybe"),
        ("TRUSTED_PROXIES", "the proxy"),
        ("LOG_LEVEL", "chatty"),
        ("LOG_FORMAT", "xml"),
        ("DATABASE_URL", "mysql://u:hunter2@db/x"),
        ("REDIS_URL", "http://:hunter2@cache"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
    ],
)
def test_what_cannot_be_is_refused_by_name(variable: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=variable) as refused:
        ServiceSettings.from_environment({variable: value})
    assert refused.value.param == variable
    assert "hunter2" not in refused.value.message


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "::", "gateway.example"])
def test_without_keys_only_loopback_is_bound(host: str) -> None:
    with pytest.raises(ConfigurationError, match="REQUIRE_KEYS"):
        ServiceSettings.from_environment({"SERVICE_HOST": host})
    assert ServiceSettings.from_environment({"SERVICE_HOST": host, "REQUIRE_KEYS": "true"}).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_loopback_needs_no_keys(host: str) -> None:
    assert ServiceSettings.from_environment({"SERVICE_HOST": host}).binds_to_loopback


@pytest.mark.parametrize(
    ("given", "need_key"),
    [
        ({}, False),
        ({"REQUIRE_KEYS": "true"}, True),
        ({"REQUIRE_KEYS": "true", "SERVICE_HOST": "0.0.0.0"}, True),
        ({"REQUIRE_KEYS": "true", "METRICS_PORT": "9101"}, True),
        ({"REQUIRE_KEYS": "true", "METRICS_REQUIRE_KEY": "false"}, False),
        ({"METRICS_REQUIRE_KEY": "true"}, True),
    ],
)
def test_metrics_need_a_key_where_callers_do_unless_it_is_said(given: dict[str, str], need_key: bool) -> None:
    assert ServiceSettings.from_environment(given).metrics_need_key is need_key


def test_a_port_for_metrics_is_reached_from_this_machine_alone_unless_it_is_said() -> None:
    settings = ServiceSettings.from_environment({"SERVICE_HOST": "0.0.0.0", "REQUIRE_KEYS": "true"})
    assert (settings.metrics_port, settings.metrics_host) == (None, "127.0.0.1")


def test_several_processes_want_shared_stores() -> None:
    shared = {"REDIS_URL": "redis://cache", "DATABASE_URL": "postgresql://db/service"}
    for name, url in shared.items():
        with pytest.raises(ConfigurationError, match="REDIS_URL and DATABASE_URL"):
            ServiceSettings.from_environment({"SERVICE_WORKERS": "2", name: url})
    assert ServiceSettings.from_environment({"SERVICE_WORKERS": "2", **shared}).workers == 2


def test_all_connections_together_can_hold_the_largest_request() -> None:
    with pytest.raises(ConfigurationError, match=r"MAX_BUFFERED_BYTES=1000 is less than MAX_BODY_BYTES, 2000"):
        ServiceSettings.from_environment({"MAX_BUFFERED_BYTES": "1000", "MAX_BODY_BYTES": "2000"})
    assert (
        ServiceSettings.from_environment({"MAX_BUFFERED_BYTES": "2000", "MAX_BODY_BYTES": "2000"}).max_body_bytes
        == 2000
    )


def test_secrets_do_not_show() -> None:
    settings = ServiceSettings.from_environment(
        {"DATABASE_URL": "postgresql://u:hunter2@db/x", "REDIS_URL": "redis://:hunter2@c", "GROQ_API_KEY": "hunter2"}
    )
    assert "hunter2" not in repr(settings)


def test_the_documentation_lists_every_setting_with_its_default() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("# Configure the service")[2]
    documented = dict(ROW.findall(section))
    settings = ServiceSettings.from_environment({})
    real = {
        setting.metadata["variable"]: getattr(settings, setting.name)
        for setting in fields(settings)
        if "variable" in setting.metadata
    }
    assert documented.keys() == real.keys()
    assert documented == {name: _written(value) for name, value in real.items()}


def _written(value: object) -> str:
    """As the page writes it: home folder as ~, whole seconds without a point."""
    if value in (None, (), ""):
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Path):
        return f"`{value}`".replace(str(Path.home()), "~")
    return f"{value:g}" if isinstance(value, float) else str(value)
