"""Reads vLLM's flags about the server from the environment, before vLLM is imported.

The port is open, and its keys are known, long before that. A parser of these few flags reads the same variables, extra
arguments and file of flags as vLLM's parser does; tests/contract holds that both understand them alike.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handler.engine.arguments import CONFIG_FLAG, CommandLine, command_line, flags_of
from handler.engine.start_errors import start_error
from handler.errors import ConfigurationError

# vLLM's own variables that look like these flags with a prefix.
VLLM_VARIABLES = frozenset({"VLLM_PORT", "VLLM_API_KEY"})
EVERY_ADDRESS = "0.0.0.0"  # noqa: S104 - a load balancer comes from outside the container


@dataclass(frozen=True)
class Tls:
    """The certificate of the server, as `uvicorn.Config` takes it."""

    ssl_keyfile: str | None = None
    ssl_certfile: str | None = None
    ssl_ca_certs: str | None = None
    ssl_cert_reqs: int = int(ssl.CERT_NONE)
    ssl_ciphers: str | None = None


@dataclass(frozen=True)
class Door:
    """The settings of the server's flags."""

    host: str | None = None
    port: int | None = None
    #: Callers need one of them; none lets everybody in.
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    #: Web pages of these origins may call.
    allowed_origins: tuple[str, ...] = ()
    allowed_methods: tuple[str, ...] = ("*",)
    allowed_headers: tuple[str, ...] = ("*",)
    allow_credentials: bool = False
    #: Answers carry `X-Request-Id`.
    request_id_headers: bool = False
    #: A prefix that a proxy leaves in front of every path.
    root_path: str = ""
    tls: Tls = field(default_factory=Tls)

    @classmethod
    def read(cls, environment: Mapping[str, str], *, own_key: bool = True) -> Door:
        """Reads the flags; raises ConfigurationError naming the variable to blame.

        own_key: VLLM_API_KEY is the key of this server. With VLLM_BASE_URL it is that of another.
        """
        parser = _parser()
        command = command_line(parser, environment, {}, VLLM_VARIABLES)
        try:
            options = parser.parse_known_args(_words(command, parser))[0]
        except Exception as error:
            raise start_error(error, command, parser) from error
        keys = options.api_key or ([environment.get("VLLM_API_KEY", "").strip()] if own_key else [])
        _check_tls(options, command)
        return cls(
            host=options.host,
            port=options.port,
            api_keys=tuple(key for key in keys if key),
            allowed_origins=options.allowed_origins,
            allowed_methods=options.allowed_methods,
            allowed_headers=options.allowed_headers,
            allow_credentials=options.allow_credentials,
            request_id_headers=options.enable_request_id_headers,
            root_path=(options.root_path or "").rstrip("/"),
            tls=Tls(**{name: value for name, value in vars(options).items() if name.startswith("ssl_")}),
        )


def _texts(written: str) -> tuple[str, ...]:
    """Returns the texts of a JSON list, or one text by itself; raises ArgumentTypeError for anything else."""
    try:
        value = json.loads(written)
    except ValueError:
        value = None
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise argparse.ArgumentTypeError(f"""expected JSON, a list of texts, as in '["a"]'; got {written!r}""")
    return tuple(items)


def is_public(host: str) -> bool:
    """Returns whether others than this machine may reach a server that listens on the address."""
    try:
        return not ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host != "localhost"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(exit_on_error=False, add_help=False)
    parser.add_argument("--config")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--api-key", nargs="+")
    for name, default in (("origins", ()), ("methods", ("*",)), ("headers", ("*",))):
        parser.add_argument(f"--allowed-{name}", type=_texts, default=default)
    for switch in ("--allow-credentials", "--enable-request-id-headers"):
        parser.add_argument(switch, action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument("--root-path")
    for name in ("keyfile", "certfile", "ca-certs", "ciphers"):
        parser.add_argument(f"--ssl-{name}")
    parser.add_argument("--ssl-cert-reqs", type=int, default=int(ssl.CERT_NONE))
    return parser


def _words(command: CommandLine, parser: argparse.ArgumentParser) -> list[str]:
    """Returns the command line with the file of flags before it, and options spelled with dashes."""
    words = [_with_dashes(word) for word in command.argv(parser)]
    named = parser.parse_known_args(words)[0].config
    if not named:
        return words
    return [*_words_of_file(named, set(flags_of(parser)) - {CONFIG_FLAG}, command.source_of(CONFIG_FLAG)), *words]


def _with_dashes(word: str) -> str:
    option, equals, value = word.partition("=")
    return f"{option.replace('_', '-')}{equals}{value}" if word.startswith("--") else word


def _words_of_file(path: str, flags: set[str], variable: str) -> list[str]:
    """Returns what a file of flags says about the server; raises ConfigurationError for one that cannot be read.

    To go on without it would be to go on without the keys in it.
    """
    import yaml

    try:
        with Path(path).open(encoding="utf-8") as file:  # of a text, an error would quote the line, and a key in it
            document = yaml.safe_load(file)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise _no_flags(path, variable, " ".join(str(error).split())) from error
    if not isinstance(document, dict):
        raise _no_flags(path, variable, "it holds no names with values")
    named = {str(name).replace("-", "_"): value for name, value in document.items()}
    return [word for flag in named.keys() & flags for word in _words_of(flag.replace("_", "-"), named[flag])]


def _no_flags(path: str, variable: str, reason: str) -> ConfigurationError:
    remedy = "Name a readable YAML file with flags of vllm serve and their values"
    return ConfigurationError(f"{variable}: {path} is no file of flags: {reason}. {remedy}", param=variable)


def _words_of(option: str, value: Any) -> list[str]:
    match value:
        case bool():
            return [f"--{option}" if value else f"--no-{option}"]
        case list():
            return [f"--{option}", *(str(item) for item in value)]
        case dict():
            return [f"--{option}", json.dumps(value)]
    return [f"--{option}", str(value)]


def _check_tls(options: argparse.Namespace, command: CommandLine) -> None:
    """Raises ConfigurationError where the certificate cannot be used; uvicorn would only notice once it serves."""
    if not options.ssl_certfile and not options.ssl_keyfile:
        return
    variable = command.source_of("ssl_certfile")
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.ssl_certfile or "", options.ssl_keyfile)
        context.verify_mode = ssl.VerifyMode(options.ssl_cert_reqs)
        if options.ssl_ca_certs:
            context.load_verify_locations(options.ssl_ca_certs)
        if options.ssl_ciphers:
            context.set_ciphers(options.ssl_ciphers)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{variable}: the certificate, its SSL_KEYFILE, SSL_CA_CERTS, SSL_CERT_REQS or SSL_CIPHERS cannot be used: "
            f"{error}",
            param=variable,
        ) from error
