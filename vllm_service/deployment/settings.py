"""DeploySettings: the account and its address, from the environment. No other module of deployment/ reads it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from vllm_service.catalog.presets import RUNPOD_MANAGEMENT_URL
from vllm_service.domain.urls import is_plain_beyond_this_machine, url_fault
from vllm_service.errors import ConfigurationError, ConfigurationFaults

KEY_VARIABLE = "RUNPOD_API_KEY"
ORIGIN_VARIABLE = "RUNPOD_REST_URL"


@dataclass(frozen=True, kw_only=True)
class DeploySettings:
    """The account that every verb of `deploy` works on. docs/configure.md describes the variables."""

    #: The key of RunPod's account. It needs write access to change anything.
    api_key: str = field(repr=False)
    #: The origin of RunPod's REST API v2.
    origin: str = RUNPOD_MANAGEMENT_URL
    #: All variables, for the secrets that a deployment names.
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None, *, key_needed: bool = True) -> Self:
        """Returns the settings. Raises ConfigurationError with every wrong variable. Empty values count as not set.

        key_needed: False for what works without a key, which is then an empty text.
        """
        environment = dict(os.environ if environment is None else environment)
        faults = ConfigurationFaults()
        key, origin = "", RUNPOD_MANAGEMENT_URL
        with faults:
            given = environment.get(KEY_VARIABLE, "").strip()
            key = _key(given) if given or key_needed else ""
        with faults:
            origin = _origin(environment.get(ORIGIN_VARIABLE, "").strip() or RUNPOD_MANAGEMENT_URL)
        faults.raise_all()
        return cls(api_key=key, origin=origin, environment=environment)


def _key(text: str) -> str:
    if not text:
        raise ConfigurationError(
            f"{KEY_VARIABLE} is not set: make a key in RunPod's console under Settings, API Keys, and set the variable",
            param=KEY_VARIABLE,
        )
    if not (text.isascii() and text.isprintable() and " " not in text):
        raise ConfigurationError(
            f"{KEY_VARIABLE} holds a character that no header can carry: a space, a line's end, or one beyond ASCII; "
            "set it to the key alone",
            param=KEY_VARIABLE,
        )
    return text


def _origin(url: str) -> str:
    """Returns the origin. The URL is never quoted: one with a password in it may have been set by mistake."""
    fault = url_fault(url)
    if fault is None and is_plain_beyond_this_machine(url):
        fault = "over http the key could be read on the way; write https"
    if fault is not None:
        raise ConfigurationError(f"{ORIGIN_VARIABLE}: {fault}", param=ORIGIN_VARIABLE)
    return url.rstrip("/").removesuffix("/v2")
