"""Everything the worker reads from its environment, read here only and validated once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from handler.errors import ConfigurationError
from handler.request_limits import DEFAULT, RequestLimits
from handler.variables import Faults, Variables, with_home

REPOSITORY = Path(__file__).resolve().parent.parent
DEMO_MODEL_DIR = REPOSITORY / "demo_model"
DEMO_MODEL_NAME = "demo-model"

# vLLM's flags for the demo model: its adapter, its way of calling tools, and a KV cache that suits a laptop.
DEMO_FLAGS: Mapping[str, str] = {
    "model": str(DEMO_MODEL_DIR),
    "served_model_name": DEMO_MODEL_NAME,
    "enable_lora": "true",
    "lora_modules": f"pirate={DEMO_MODEL_DIR / 'adapters' / 'pirate'}",
    "max_lora_rank": "8",
    "kv_cache_memory_bytes": "256M",
    "enable_auto_tool_choice": "true",
    "tool_call_parser": "hermes",
}

# The paths that a job may ask for; anything else (docs, /metrics, profiling, scaling) stays inside the worker.
ALLOWED_PATHS = (
    "/v1/",
    "/v2/",
    "/tokenize",
    "/detokenize",
    "/pooling",
    "/classify",
    "/score",
    "/rerank",
    "/health",
    "/version",
)
MODEL_NAMES = ("MODEL_NAME", "MODEL", "VLLM_MODEL")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
LOG_FORMATS = ("json", "text")

# Where RunPod mounts a network volume, and, on it or not, the models that it caches on its hosts.
RUNPOD_VOLUME = Path("/runpod-volume")
RUNPOD_HOST_CACHE = RUNPOD_VOLUME / "huggingface-cache" / "hub"


# Variables of this program and of others whose names only look like misspelt flags of vLLM.
FOREIGN_NAMES = frozenset({"LOG_FORMAT", "SSL_CERT_FILE", "NODE_NAME", "CONFIG_FILE", "CONFIG_PATH"})
# Variables of the worker that vLLM has a flag for too: they do not set the flag.
WORKER_NAMES = frozenset({"LOG_LEVEL"})
# Where vLLM's flags may name a model too, which only its parser can say.
FLAG_CARRIERS = ("VLLM_EXTRA_ARGS", "CONFIG", "VLLM_CONFIG")


@dataclass(frozen=True)
class ModelSettings:
    """The sources of models: where they may lie, and how they are fetched."""

    #: Where this worker downloads to.
    cache_dir: Path
    #: Where an image brings its models.
    baked_dir: Path = Path("/models")
    host_cache_dir: Path = RUNPOD_HOST_CACHE
    #: A folder of LoRA adapters for all workers, one directory each.
    adapters_dir: Path = RUNPOD_VOLUME / "adapters"
    #: The hub client's own cache on this machine; read, never written.
    hub_cache_dir: Path | None = None
    #: False leaves everything to vLLM, which then downloads by itself.
    managed: bool = True
    #: Read all files at the start, and fetch broken ones anew.
    verify: bool = False
    offline: bool = False
    endpoint: str | None = None
    token: str | None = field(default=None, repr=False)
    #: The model that the commands download by default. The worker itself takes it from vLLM's parser.
    name: str | None = None
    revision: str | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> ModelSettings:
        """Reads the settings for commands that need no worker; raises ConfigurationError naming all that is wrong."""
        variables = Variables(environment)
        settings = cls.read(variables)
        variables.faults.raise_all()
        return settings

    @classmethod
    def read(cls, variables: Variables) -> ModelSettings:
        """Reads the variables that are set; `variables` keeps what is wrong."""
        given = variables.given
        hub_home = Path(given.get("HF_HOME", with_home("~/.cache/huggingface")))
        at_home = Path(with_home("~/.cache/vllm-worker/models"))
        own = RUNPOD_VOLUME / "model-cache" if os.access(RUNPOD_VOLUME, os.W_OK) else at_home
        return cls(
            cache_dir=Path(given.get("MODEL_CACHE_DIR", own)),
            baked_dir=Path(given.get("BAKED_MODELS_DIR", cls.baked_dir)),
            host_cache_dir=Path(given.get("HOST_CACHE_DIR", cls.host_cache_dir)),
            adapters_dir=Path(given.get("ADAPTERS_DIR", cls.adapters_dir)),
            hub_cache_dir=Path(given.get("HF_HUB_CACHE", hub_home / "hub")),
            managed=variables.switch("MODEL_CACHE", cls.managed),
            verify=variables.switch("VERIFY_MODEL", cls.verify),
            offline=variables.switch("HF_HUB_OFFLINE", cls.offline),
            endpoint=given.get("HF_ENDPOINT"),
            token=given.get("HF_TOKEN") or given.get("HUGGING_FACE_HUB_TOKEN"),
            name=next((given[name] for name in MODEL_NAMES if name in given), None),
            revision=given.get("REVISION") or given.get("MODEL_REVISION"),
        )


@dataclass(frozen=True)
class StartSettings:
    """Settings of the start: the price of a second, and what makes the start shorter."""

    #: The price of the GPU; None leaves the dollars of a start unknown.
    usd_per_second: Decimal | None = None
    #: Read the weights into the page cache while vLLM is imported.
    read_ahead: bool = True
    #: Where compilations are kept for the next start; None compiles anew each time.
    compile_cache_dir: Path | None = None
    #: Signs the compilations that are kept, and makes unsigned ones useless.
    compile_cache_secret: str | None = field(default=None, repr=False)
    #: Run kept compilations whoever may have written them.
    compile_cache_trust: bool = False

    @classmethod
    def read(cls, variables: Variables) -> StartSettings:
        """Reads the variables that are set; `variables` keeps what is wrong."""
        default_dir = RUNPOD_VOLUME / "compile-cache" if os.access(RUNPOD_VOLUME, os.W_OK) else None
        cache_dir = variables.given.get("COMPILE_CACHE_DIR")
        return cls(
            usd_per_second=variables.usd("GPU_USD_PER_SECOND"),
            read_ahead=variables.switch("READ_AHEAD", cls.read_ahead),
            compile_cache_dir=Path(cache_dir) if cache_dir else default_dir,
            compile_cache_secret=variables.given.get("COMPILE_CACHE_SECRET"),
            compile_cache_trust=variables.switch("COMPILE_CACHE_TRUST", cls.compile_cache_trust),
        )


@dataclass(frozen=True)
class WorkerSettings:
    """The worker's configuration."""

    #: The variables as they were, from which `engine.arguments` makes vLLM's flags.
    environment: Mapping[str, str] = field(repr=False)
    #: Jobs at the same time; None leaves the limit to the engine's capacity.
    max_concurrency: int | None = None
    #: Prefixes of the engine paths that jobs may ask for.
    allowed_paths: tuple[str, ...] = ALLOWED_PATHS
    #: The largest job input, as JSON. RunPod's own limit for /runsync is 20 MB (docs/runpod.md).
    max_input_bytes: int = 20_000_000
    #: What one request may have compiled, listed and multiplied.
    request_limits: RequestLimits = DEFAULT
    log_level: str = "INFO"
    #: How long running jobs may go on after SIGTERM, before they fail as retryable. With the ends of jobs and the
    #: engine's own end it must be over before the platform kills the worker (docs/runpod.md).
    grace_seconds: float = 15.0
    #: An engine that makes no progress for this long with requests inside it counts as dead.
    stall_seconds: float = 120.0
    #: Where to serve Prometheus metrics; None serves none.
    metrics_port: int | None = None
    #: An OpenAI-compatible server that already runs, to be used instead of an embedded vLLM.
    vllm_base_url: str | None = None
    vllm_api_key: str | None = field(default=None, repr=False)
    #: Where to serve HTTP, on a load-balancing endpoint; None is the platform's own default.
    port: int | None = None
    health_port: int | None = None
    #: Where the platform's health checks come, beside `/ping`.
    health_check_path: str = "/ping"
    #: The largest HTTP request. RunPod's own limit for load-balancing endpoints is 30 MB (docs/runpod.md).
    max_body_bytes: int = 30_000_000
    models: ModelSettings = field(default_factory=lambda: ModelSettings.read(Variables({})))
    start: StartSettings = field(default_factory=StartSettings)

    def __post_init__(self) -> None:
        faults = Faults()
        if self.max_concurrency is not None and self.max_concurrency < 1:
            faults.add("MAX_CONCURRENCY", "expected at least 1")
        if self.max_input_bytes < 1:
            faults.add("MAX_INPUT_BYTES", "expected at least 1")
        if not all(path.startswith("/") for path in self.allowed_paths):
            faults.add("ALLOWED_PATHS", "every prefix begins with a slash")
        if self.log_level not in LOG_LEVELS:
            faults.add("LOG_LEVEL", f"expected one of {', '.join(LOG_LEVELS)}")
        if self.environment.get("LOG_FORMAT", "").strip().lower() not in {"", *LOG_FORMATS}:
            faults.add("LOG_FORMAT", f"expected {' or '.join(LOG_FORMATS)}")
        if not self.names_a_model and not self.flags_may_name_a_model:
            with faults:
                self.check_that_the_demo_model_may_be_served()
        faults.raise_all()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> WorkerSettings:
        """Reads and validates; raises ConfigurationError naming all that is wrong. Empty values count as not set."""
        variables = Variables(environment)
        given = variables.given
        paths = tuple(path.strip() for path in given.get("ALLOWED_PATHS", "").split(",") if path.strip())
        with variables.faults:
            settings = cls(
                environment=dict(environment),
                max_concurrency=variables.whole_number("MAX_CONCURRENCY", None),
                allowed_paths=paths or ALLOWED_PATHS,
                max_input_bytes=variables.whole_number("MAX_INPUT_BYTES", cls.max_input_bytes),
                request_limits=_request_limits(variables),
                log_level=given.get("LOG_LEVEL", cls.log_level).upper(),
                grace_seconds=variables.seconds("GRACE_SECONDS", cls.grace_seconds),
                stall_seconds=variables.seconds("STALL_SECONDS", cls.stall_seconds),
                metrics_port=variables.port("METRICS_PORT"),
                vllm_base_url=given.get("VLLM_BASE_URL"),
                vllm_api_key=given.get("VLLM_API_KEY"),
                port=variables.port("PORT"),
                health_port=variables.port("PORT_HEALTH"),
                health_check_path=variables.path("HEALTH_CHECK_PATH", cls.health_check_path),
                models=ModelSettings.read(variables),
                start=StartSettings.read(variables),
            )
        variables.faults.raise_all()
        return settings

    @property
    def user(self) -> str | None:
        """The user of the image for a worker that is started as root; None leaves it root."""
        return self.environment.get("WORKER_USER", "").strip() or None

    @property
    def written_directories(self) -> tuple[Path, ...]:
        """Where this worker and its libraries keep files from one start to the next."""
        given = (self.environment.get(name, "").strip() for name in ("HF_HOME", "XDG_CACHE_HOME"))
        kept = [self.models.cache_dir, self.start.compile_cache_dir, *(Path(value) for value in given if value)]
        return tuple(path for path in kept if path)

    @property
    def runs_under_runpod(self) -> bool:
        """True on the platform, which sets these variables in every worker."""
        return bool(self.environment.get("RUNPOD_WEBHOOK_GET_JOB") or self.environment.get("RUNPOD_ENDPOINT_ID"))

    @property
    def takes_jobs(self) -> bool:
        """True where there is a queue to take jobs from."""
        return bool(self.environment.get("RUNPOD_WEBHOOK_GET_JOB"))

    @property
    def logs_json(self) -> bool:
        """True on the platform, where machines read the log; LOG_FORMAT=json or text decides otherwise."""
        given = self.environment.get("LOG_FORMAT", "").strip().lower()
        return self.runs_under_runpod if not given else given == "json"

    @property
    def serves_http(self) -> bool:
        """True on a load-balancing endpoint, which is an endpoint without a queue to take jobs from."""
        return self.runs_under_runpod and not self.takes_jobs

    @property
    def names_a_model(self) -> bool:
        """True when a variable names the model, or a server that has one."""
        return bool(self.vllm_base_url) or self._is_set(*MODEL_NAMES)

    @property
    def flags_may_name_a_model(self) -> bool:
        """True when there are flags that only vLLM's parser can read, so that a model may be among them."""
        return self._is_set(*FLAG_CARRIERS)

    def _is_set(self, *names: str) -> bool:
        return any(self.environment.get(name, "").strip() for name in names)

    def check_that_the_demo_model_may_be_served(self) -> None:
        """Raises ConfigurationError under RunPod, where a model must be named."""
        if self.runs_under_runpod:
            raise ConfigurationError(
                "MODEL_NAME is not set: name the model this endpoint serves, for example "
                "MODEL_NAME=Qwen/Qwen2.5-0.5B-Instruct (the demo model is for laptops only)",
                param="MODEL_NAME",
            )

    @property
    def may_fork(self) -> bool:
        """False where the user has set vLLM to spawn its processes."""
        return self.environment.get("VLLM_WORKER_MULTIPROC_METHOD", "fork") == "fork"


def _request_limits(variables: Variables) -> RequestLimits:
    return RequestLimits(
        constraint_bytes=variables.count("MAX_CONSTRAINT_BYTES", DEFAULT.constraint_bytes),
        list_items=variables.count("MAX_LIST_ITEMS", DEFAULT.list_items),
        sequences=variables.count("MAX_SEQUENCES", DEFAULT.sequences),
        text_characters=variables.count("MAX_TEXT_CHARACTERS", DEFAULT.text_characters),
    )


def export(variables: Mapping[str, str], *, overwrite: bool = False) -> None:
    """Sets variables for libraries that have no other configuration. The user's values win, except with `overwrite`."""
    for name, value in variables.items():
        if overwrite or not os.environ.get(name):
            os.environ[name] = value
