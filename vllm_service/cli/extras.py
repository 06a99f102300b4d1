"""Which extra of the package installs a library, for commands that miss one."""

from __future__ import annotations

# extra -> the libraries that are imported somewhere below vllm_service/, by the names they are imported by.
LIBRARIES = {
    "client": ("genai_prices", "httpx2", "msgspec", "numpy", "openai", "pydantic", "rich", "shtab", "tenacity", "yaml"),
    "service": (
        "asyncpg",
        "fastapi",
        "httptools",
        "jinja2",
        "prometheus_client",
        "psutil",
        "pyarrow",
        "redis",
        "starlette",
        "tokenizers",
        "uvloop",
    ),
    "plots": ("matplotlib",),
    "tracing": ("opentelemetry",),
}
_EXTRA_OF = {library: extra for extra, libraries in LIBRARIES.items() for library in libraries}


def advice(error: ModuleNotFoundError, command: str) -> str | None:
    """Returns the line that says what to install. None for a module of no extra: its absence is a defect."""
    library = (error.name or "").partition(".")[0]
    extra = _EXTRA_OF.get(library)
    if extra is None:
        return None
    return f"{command} needs the {extra} extra: pip install 'vllm-service[{extra}]' ({library} is not installed)"
