"""Finds the extra of the package that installs a library, for commands that lack it."""

from __future__ import annotations

#: By extra: the libraries that vllm_service imports, by the names under which it imports them.
LIBRARIES = {
    "client": ("genai_prices", "httpx2", "msgspec", "numpy", "openai", "pydantic", "rich", "shtab", "tenacity", "yaml"),
    "service": (
        "asyncpg",
        "fastapi",
        "httptools",
        "huggingface_hub",
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
    """Returns a line with what to install; None for a module of no extra, whose absence is a defect."""
    library = (error.name or "").partition(".")[0]
    extra = _EXTRA_OF.get(library)
    if extra is None:
        return None
    return f"{command} needs the {extra} extra: pip install 'vllm-service[{extra}]' ({library} is not installed)"
