"""CatalogSettings and ServiceSettings: the environment, read once, validated and frozen.

No other module reads the environment. A new setting is one line here and one in docs/configure.md.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from dataclasses import InitVar, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from vllm_service.domain.pricing import UnpricedOffers
from vllm_service.domain.strategies import RoutingStrategy
from vllm_service.errors import ConfigurationError, ConfigurationFaults

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
LOG_FORMATS = ("json", "text")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Reader(NamedTuple):
    """The type of a setting."""

    #: Completes "expected ..." in the error.
    expected: str
    #: Returns the value of a variable's text. Raises ValueError.
    read: Callable[[str], Any]


def _positive_int(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def _share(text: str) -> int:
    if not 0 <= (number := int(text)) <= 100:
        raise ValueError
    return number


def _port(text: str) -> int:
    if not 0 <= (number := int(text)) < 2**16:
        raise ValueError
    return number


def _seconds(text: str) -> float:
    if not 0 < (seconds := float(text)) < float("inf"):
        raise ValueError
    return seconds


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # a "~name" of a user that does not exist
        raise ValueError from None


def _networks(text: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())


def _choice(values: Mapping[str, Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        if text.lower() not in values:
            raise ValueError
        return values[text.lower()]

    return read


#: The spellings of a boolean, in lower case.
SWITCH_WORDS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}

TEXT = Reader("text", str)
PATH = Reader("a path, in which a leading ~name is a user of this machine", _path)
COUNT = Reader("a whole number of at least 1", _positive_int)
PORT = Reader("a port from 0 to 65535", _port)
SECONDS = Reader("a number of seconds above 0", _seconds)
PERCENT = Reader("a whole number from 0 to 100", _share)
STRATEGY = Reader(
    f"one of {', '.join(strategy.value for strategy in RoutingStrategy)}", lambda text: RoutingStrategy(text).value
)
SWITCH = Reader("true or false", _choice(SWITCH_WORDS))
NETWORKS = Reader("addresses or networks, separated by commas, such as 10.0.0.0/8", _networks)
LOG_LEVEL = Reader(f"one of {', '.join(LOG_LEVELS)}", _choice({level.lower(): level for level in LOG_LEVELS}))
LOG_FORMAT = Reader(" or ".join(LOG_FORMATS), _choice({name: name for name in LOG_FORMATS}))

UNPRICED = Reader(" or ".join(UnpricedOffers), _choice({way.value: way for way in UnpricedOffers}))
REDIS_AWAY = Reader("refuse or count_alone", _choice({name: name for name in ("refuse", "count_alone")}))


def _setting(variable: str, reader: Reader, default: Any, *, secret: bool = False) -> Any:
    return field(default=default, repr=not secret, metadata={"variable": variable, "reader": reader})


@dataclass(frozen=True, kw_only=True)
class CatalogSettings:
    """The settings that a catalog needs. Other variables are not read, so that a wrong one of them does no harm."""

    config_dir: Path = _setting("CONFIG_DIR", PATH, Path())
    #: A relative path starts at config_dir, as that of models_file.
    providers_file: Path = _setting("PROVIDERS_FILE", PATH, Path("providers.yaml"))
    models_file: Path = _setting("MODELS_FILE", PATH, Path("models.yaml"))
    baseline_model: str | None = _setting("BASELINE_MODEL", TEXT, None)

    #: All variables, for the API keys that providers.yaml names.
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: Variables that are wrong: their defaults stand in, and nothing can contradict these.
    unread: InitVar[Set[str]] = frozenset()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Returns the settings. Raises ConfigurationError with every wrong variable. Empty values count as not set."""
        environment = os.environ if environment is None else environment
        given = {name: value.strip() for name, value in environment.items() if value.strip()}
        faults = ConfigurationFaults()
        values: dict[str, Any] = {}
        wrong: set[str] = set()
        for setting in fields(cls):
            variable = setting.metadata.get("variable")
            if variable in given:
                wrong.add(variable)
                with faults:
                    values[setting.name] = _read(setting.metadata, given[variable])
                    wrong.discard(variable)
        with faults:
            settings = cls(**values, environment=dict(environment), unread=wrong)
        faults.raise_all()
        return settings

    def __post_init__(self, unread: Set[str]) -> None:
        faults = ConfigurationFaults()
        for variables, error in self.contradictions():
            if unread.isdisjoint(variables):
                faults.add(error)
        faults.raise_all()

    def contradictions(self) -> Iterator[tuple[Collection[str], ConfigurationError]]:
        """Yields each error that follows from the values of these variables together."""
        yield from ()

    @property
    def providers_path(self) -> Path:
        """The path of providers.yaml; a relative PROVIDERS_FILE starts at CONFIG_DIR."""
        return self.config_dir / self.providers_file

    @property
    def models_path(self) -> Path:
        """The path of models.yaml; a relative MODELS_FILE starts at CONFIG_DIR."""
        return self.config_dir / self.models_file


@dataclass(frozen=True, kw_only=True)
class ServiceSettings(CatalogSettings):
    """The gateway's settings; docs/configure.md describes each. Raises ConfigurationError if some contradict."""

    host: str = _setting("SERVICE_HOST", TEXT, "127.0.0.1")
    port: int = _setting("SERVICE_PORT", PORT, 8090)
    workers: int = _setting("SERVICE_WORKERS", COUNT, 1)
    worker_port: int | None = _setting("SERVICE_WORKER_PORT", PORT, None)

    data_dir: Path = _setting("DATA_DIR", PATH, Path("~/.local/share/vllm-service").expanduser())
    database_url: str | None = _setting("DATABASE_URL", TEXT, None, secret=True)
    redis_url: str | None = _setting("REDIS_URL", TEXT, None, secret=True)
    key_pepper: str = _setting("KEY_PEPPER", TEXT, "", secret=True)
    when_redis_is_away: str = _setting("WHEN_REDIS_IS_AWAY", REDIS_AWAY, "refuse")
    replicas: int = _setting("REPLICAS", COUNT, 1)
    book_worker_seconds: bool = _setting("BOOK_WORKER_SECONDS", SWITCH, True)
    ledger_retention_days: int | None = _setting("LEDGER_RETENTION_DAYS", COUNT, None)

    require_keys: bool = _setting("REQUIRE_KEYS", SWITCH, False)
    trusted_proxies: tuple[Network, ...] = _setting("TRUSTED_PROXIES", NETWORKS, ())
    requests_per_second_per_ip: int = _setting("REQUESTS_PER_SECOND_PER_IP", COUNT, 50)
    wrong_keys_per_minute_per_ip: int = _setting("WRONG_KEYS_PER_MINUTE_PER_IP", COUNT, 30)

    max_body_bytes: int = _setting("MAX_BODY_BYTES", COUNT, 20_000_000)
    max_header_bytes: int = _setting("MAX_HEADER_BYTES", COUNT, 32_768)
    max_connections: int = _setting("MAX_CONNECTIONS", COUNT, 4096)
    max_connections_per_address: int | None = _setting("MAX_CONNECTIONS_PER_ADDRESS", COUNT, None)
    max_buffered_bytes: int = _setting("MAX_BUFFERED_BYTES", COUNT, 256_000_000)
    header_timeout_seconds: float = _setting("HEADER_TIMEOUT_SECONDS", SECONDS, 10.0)
    body_timeout_seconds: float = _setting("BODY_TIMEOUT_SECONDS", SECONDS, 60.0)
    keep_alive_seconds: float = _setting("KEEP_ALIVE_SECONDS", SECONDS, 75.0)
    write_timeout_seconds: float = _setting("WRITE_TIMEOUT_SECONDS", SECONDS, 60.0)
    request_timeout_seconds: float = _setting("REQUEST_TIMEOUT_SECONDS", SECONDS, 600.0)
    stream_keep_alive_seconds: float = _setting("STREAM_KEEP_ALIVE_SECONDS", SECONDS, 15.0)
    waiting_per_organisation: int = _setting("WAITING_PER_ORGANISATION", COUNT, 1000)
    waiting_requests: int = _setting("WAITING_REQUESTS", COUNT, 4000)
    grace_seconds: float = _setting("GRACE_SECONDS", SECONDS, 30.0)

    default_strategy: str = _setting("DEFAULT_STRATEGY", STRATEGY, "COST")
    unpriced_offers: UnpricedOffers = _setting("UNPRICED_OFFERS", UNPRICED, UnpricedOffers.REFUSE)
    wake_endpoints: bool = _setting("WAKE_ENDPOINTS", SWITCH, True)
    endpoint_health_seconds: float = _setting("ENDPOINT_HEALTH_SECONDS", SECONDS, 2.0)
    attempts: int = _setting("ATTEMPTS", COUNT, 4)
    attempts_per_place: int = _setting("ATTEMPTS_PER_PLACE", COUNT, 2)
    breaker_failures: int = _setting("BREAKER_FAILURES", COUNT, 5)
    breaker_open_seconds: float = _setting("BREAKER_OPEN_SECONDS", SECONDS, 10.0)
    hedge: bool = _setting("HEDGE", SWITCH, False)
    hedge_percent: int = _setting("HEDGE_PERCENT", PERCENT, 5)
    organisation_workers_percent: int = _setting("ORGANISATION_WORKERS_PERCENT", PERCENT, 50)
    hedge_delay_seconds: float | None = _setting("HEDGE_DELAY_SECONDS", SECONDS, None)

    response_cache: bool = _setting("RESPONSE_CACHE", SWITCH, False)
    response_cache_max_bytes: int = _setting("RESPONSE_CACHE_MAX_BYTES", COUNT, 64_000_000)
    response_cache_ttl_seconds: float = _setting("RESPONSE_CACHE_TTL_SECONDS", SECONDS, 3600.0)

    log_level: str = _setting("LOG_LEVEL", LOG_LEVEL, "INFO")
    log_format: str = _setting("LOG_FORMAT", LOG_FORMAT, "text")
    access_log: bool = _setting("ACCESS_LOG", SWITCH, False)
    metrics: bool = _setting("METRICS", SWITCH, True)
    #: None: where callers need a key.
    metrics_require_key: bool | None = _setting("METRICS_REQUIRE_KEY", SWITCH, None)
    metrics_port: int | None = _setting("METRICS_PORT", PORT, None)
    metrics_host: str = _setting("METRICS_HOST", TEXT, "127.0.0.1")
    latency_target_seconds: float | None = _setting("LATENCY_TARGET_SECONDS", SECONDS, None)
    otlp_endpoint: str | None = _setting("OTEL_EXPORTER_OTLP_ENDPOINT", TEXT, None)

    def contradictions(self) -> Iterator[tuple[Collection[str], ConfigurationError]]:
        """Yields each error that follows from the values of these variables together."""
        # Without keys, any host that reaches the gateway could spend the operator's money.
        if not self.require_keys and not self.binds_to_loopback:
            error = ConfigurationError(
                f"SERVICE_HOST={self.host}: without keys the service binds to loopback only. Set REQUIRE_KEYS=true and "
                "make keys with `python -m vllm_service keys`, or leave SERVICE_HOST at 127.0.0.1.",
                param="SERVICE_HOST",
            )
            yield ("SERVICE_HOST", "REQUIRE_KEYS"), error
        if self.workers > 1 and not (self.redis_url and self.database_url):
            error = ConfigurationError(
                f"SERVICE_WORKERS={self.workers}: several processes share limits and ledger through REDIS_URL and "
                "DATABASE_URL. Set both, or SERVICE_WORKERS=1.",
                param="SERVICE_WORKERS",
            )
            yield ("SERVICE_WORKERS",), error
        if self.max_buffered_bytes < self.max_body_bytes:  # no request of that size could ever be received
            error = ConfigurationError(
                f"MAX_BUFFERED_BYTES={self.max_buffered_bytes} is less than MAX_BODY_BYTES, {self.max_body_bytes}: all "
                "connections together have to hold one request at least. Raise it, or lower MAX_BODY_BYTES.",
                param="MAX_BUFFERED_BYTES",
            )
            yield ("MAX_BUFFERED_BYTES", "MAX_BODY_BYTES"), error
        for variable, url, *schemes in (
            ("DATABASE_URL", self.database_url, "postgres://", "postgresql://"),
            ("REDIS_URL", self.redis_url, "redis://", "rediss://", "unix://"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", self.otlp_endpoint, "http://", "https://"),
        ):
            if url is not None and (fault := _url_fault(url, schemes)) is not None:
                yield (variable,), ConfigurationError(f"{variable}: {fault}", param=variable)

    @property
    def metrics_need_key(self) -> bool:
        """True if /metrics at the gateway's own port needs a key, as by default wherever callers need one."""
        return self.require_keys if self.metrics_require_key is None else self.metrics_require_key

    @property
    def binds_to_loopback(self) -> bool:
        """True if only this machine can reach the service."""
        return _is_loopback(self.host)

    @property
    def metrics_bind_to_loopback(self) -> bool:
        """True if only this machine can reach METRICS_PORT."""
        return _is_loopback(self.metrics_host)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read(metadata: Mapping[str, Any], text: str) -> Any:
    reader = metadata["reader"]
    variable = metadata["variable"]
    try:
        return reader.read(text)
    except ValueError:
        raise ConfigurationError(f"{variable}={text!r}: expected {reader.expected}", param=variable) from None


def _url_fault(url: str, schemes: Sequence[str]) -> str | None:
    """Returns what is wrong with the URL of a server, without quoting it: it may hold a password."""
    if not url.startswith(tuple(schemes)):
        return f"expected a URL that begins with {' or '.join(schemes)}"
    try:
        hosts = urlsplit(url).netloc.rpartition("@")[2]
    except ValueError:
        return "expected a URL; an IPv6 address stands in brackets, and a password's signs are written %XX"
    # Postgres takes several hosts, separated by commas.
    ports = [port for host in hosts.split(",") if (port := host.rpartition("]")[2].partition(":")[2])]
    if any(not (port.isascii() and port.isdecimal() and 0 < int(port) < 2**16) for port in ports):
        return "the port is not a number from 1 to 65535; a password's signs are written %XX"
    number = urlsplit(url).path.strip("/")
    if url.startswith(("redis://", "rediss://")) and number and not (number.isascii() and number.isdecimal()):
        return "the part after the host is the number of one of Redis' databases, such as /0"
    return None
