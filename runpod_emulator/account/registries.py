"""Credentials of container registries. The emulator pulls no image: it keeps the names, and forgets the secrets."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from runpod_emulator.errors import NotFound


@dataclass(frozen=True)
class RegistryCredentials:
    """One registry's credentials, without username and password: RunPod shows neither again."""

    id: str
    name: str


class Registries:
    """All registries by id."""

    def __init__(self) -> None:
        self._registries: dict[str, RegistryCredentials] = {}

    @property
    def existing(self) -> list[RegistryCredentials]:
        """Returns the credentials, the oldest first."""
        return list(self._registries.values())

    def get(self, registry_id: str) -> RegistryCredentials:
        """Returns the credentials of an id. Raises NotFound."""
        registry = self._registries.get(registry_id)
        if registry is None:
            raise NotFound(f"registry {registry_id}: there is none in this account")
        return registry

    def create(self, name: str) -> RegistryCredentials:
        """Adds credentials."""
        registry = RegistryCredentials(secrets.token_hex(5), name)
        self._registries[registry.id] = registry
        return registry

    def delete(self, registry: RegistryCredentials) -> None:
        """Removes the credentials."""
        del self._registries[registry.id]
