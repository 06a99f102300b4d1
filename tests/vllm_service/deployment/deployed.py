"""A target, an emulated account, and a send that dies when it is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from runpod_emulator import Emulator, EndpointSettings
from vllm_service.deployment.desired import container_environment
from vllm_service.deployment.existing import Names
from vllm_service.deployment.spec import ContainerForm, DeploymentSpec, VolumeSpec
from vllm_service.deployment.steps import Target
from vllm_service.runpod.endpoint import Reply, SendHttp
from vllm_service.runpod.rest_api import RestApi

KEY = "rpa_0123456789abcdef"
SECRET = "hf_sesame_open_0123"
FIRST = EndpointSettings(endpoint_id="first", api_key=KEY, max_workers=1)
SPEC = DeploymentSpec(
    "demo",
    "org/name",
    "you/worker:1",
    idle_timeout_seconds=10,
    container=ContainerForm.TEMPLATE,
    volume=VolumeSpec("demo", 20),
    data_center="EU-RO-1",
)
NAMES = Names("demo", "demo")


class Killed(BaseException):
    """The end of the process: nothing catches it."""


@dataclass
class DyingSend:
    """Passes requests on until one is to be the last: that one is not sent, or its answer is lost."""

    send: SendHttp
    last: int
    is_sent: bool
    end: type[BaseException] = Killed
    #: What was passed on: method and path.
    passed: list[tuple[str, str]] = field(default_factory=list)
    #: Only these count.
    methods: tuple[str, ...] = ("GET", "POST", "PATCH", "DELETE")

    async def __call__(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, timeout_seconds: float
    ) -> Reply:
        is_last = method in self.methods and len(self._counted()) == self.last
        if is_last and not self.is_sent:
            self.passed.append((method, url))
            raise self.end("before")
        reply = await self.send(method, url, headers, body, timeout_seconds)
        self.passed.append((method, url))
        if is_last:
            raise self.end("after")
        return reply

    def _counted(self) -> list[tuple[str, str]]:
        return [request for request in self.passed if request[0] in self.methods]


@dataclass
class OvertakenSend:
    """Lets something else happen before one of the creations is sent."""

    send: SendHttp
    #: The creation, from 0.
    at: int
    overtake: Callable[[], Awaitable[object]]
    posts: int = 0

    async def __call__(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, timeout_seconds: float
    ) -> Reply:
        if method == "POST":
            self.posts += 1
            if self.posts == self.at + 1:
                await self.overtake()
        return await self.send(method, url, headers, body, timeout_seconds)


def target(secret: str = SECRET, **fields: Any) -> Target:
    spec = replace(SPEC, **fields)
    return Target(spec, ("ADA_24",), container_environment(spec, {"HF_TOKEN": secret}))


def api_of(emulator: Emulator, send: SendHttp) -> RestApi:
    return RestApi(emulator.origin, KEY, send, longest_wait_seconds=0.0)


async def no_sleep(seconds: float) -> None:
    """Passes the time at once."""


def held(emulator: Emulator) -> tuple[list[str], list[str], list[str]]:
    """The names of volumes, templates and endpoints in the account, without the first endpoint."""
    account = emulator.account
    return (
        sorted(volume.name for volume in account.volumes.existing),
        sorted(template.name for template in account.templates.values()),
        sorted(one.config.name for one in account.endpoints.values() if one.id != "first"),
    )
