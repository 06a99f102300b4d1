"""vLLM's flags about its HTTP server: which ones the worker's own server obeys, and why the others have no effect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from handler.engine.arguments import CommandLine

# What the worker's server does itself, in HTTP mode and in the development API.
OBEYED = frozenset(
    {"host", "port", "api_key", "allow_credentials", "allowed_origins", "allowed_methods", "allowed_headers"}
    | {"enable_request_id_headers", "root_path", "ssl_keyfile", "ssl_certfile", "ssl_ca_certs", "ssl_cert_reqs"}
    | {"ssl_ciphers"}
)
# What concerns vLLM's application, which the worker calls in every mode.
OF_THE_APPLICATION = frozenset(
    {"middleware", "disable_fastapi_docs", "enable_offline_docs", "enable_flash_late_interaction"}
)
ONE_PROCESS = "the worker is one server in one process"
NO_ACCESS_LOG = "the worker's server writes no access log; LOG_LEVEL sets the level of the worker's own"
WITHOUT_EFFECT: Mapping[str, str] = {
    "uds": "the worker listens on PORT",
    "headless": ONE_PROCESS,
    "api_server_count": ONE_PROCESS,
    "data_parallel_multi_port_external_lb": ONE_PROCESS,
    "data_parallel_supervisor_port": ONE_PROCESS,
    "dp_supervisor_probe_interval_s": ONE_PROCESS,
    "dp_supervisor_probe_timeout_s": ONE_PROCESS,
    "dp_supervisor_probe_failure_threshold": ONE_PROCESS,
    "grpc": "the worker serves HTTP",
    "grpc_port": "the worker serves HTTP",
    "uvicorn_log_level": NO_ACCESS_LOG,
    "disable_uvicorn_access_log": NO_ACCESS_LOG,
    "disable_access_log_for_endpoints": NO_ACCESS_LOG,
    "enable_ssl_refresh": "a new certificate is read at the next start",
    "h11_max_incomplete_event_size": "the worker's server has limits of its own",
    "h11_max_header_count": "the worker's server has limits of its own",
}
# In a queue worker PORT and HOST may be set for other reasons.
NOT_MISSED = frozenset({"host", "port"})


def without_effect(command: CommandLine, *, takes_jobs: bool) -> Iterator[str]:
    """Yields a warning for each flag about the server that is set and changes nothing."""
    for flag, source in sorted(_given(command).items()):
        if flag in WITHOUT_EFFECT:
            yield f"{source}: --{flag.replace('_', '-')} has no effect here: {WITHOUT_EFFECT[flag]}"
        elif takes_jobs and flag in OBEYED - NOT_MISSED:
            yield f"{source}: --{flag.replace('_', '-')} has no effect on a queue endpoint, which serves no HTTP"


def _given(command: CommandLine) -> dict[str, str]:
    """Returns the flags that are set, with the variable that sets each."""
    flags = [*command.extra_flags, *(setting.flag for setting in command.given)]
    return {flag: command.source_of(flag) for flag in flags}
