"""The network volumes of an account: they only grow, keep their data center, and stay on the bill when deleted."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from runpod_emulator.account.data_centers import DataCenter, VolumeType
from runpod_emulator.errors import BadRequest, NotFound

#: The limits of one volume, as in RunPod's schema of 2026-08.
SMALLEST_GB, LARGEST_GB = 10, 4096


@dataclass(eq=False)
class NetworkVolume:
    """One network volume from its creation on. Times are microseconds since 1970."""

    id: str
    name: str
    data_center: str
    type: VolumeType
    #: Each size in GB, with the time from which on it is billed; the latest last.
    sizes: list[tuple[int, int]] = field(default_factory=list)
    #: None: it exists.
    deleted_at_us: int | None = None

    @property
    def size_gb(self) -> int:
        """Returns the present size."""
        return self.sizes[-1][1]

    @property
    def created_at_us(self) -> int:
        """Returns when the volume was made."""
        return self.sizes[0][0]


class NetworkVolumes:
    """All volumes by id. now_us: the time in microseconds since 1970."""

    def __init__(self, data_centers: Sequence[DataCenter], now_us: Callable[[], int]) -> None:
        self._data_centers = {data_center.id: data_center for data_center in data_centers}
        self._now_us = now_us
        self._volumes: dict[str, NetworkVolume] = {}
        #: Deleted ones; they stay on the bill.
        self.deleted: list[NetworkVolume] = []

    @property
    def existing(self) -> list[NetworkVolume]:
        """Returns the volumes that are there, the oldest first."""
        return list(self._volumes.values())

    def find(self, volume_id: str) -> NetworkVolume | None:
        """Returns a volume, or None."""
        return self._volumes.get(volume_id)

    def get(self, volume_id: str) -> NetworkVolume:
        """Returns a volume. Raises NotFound."""
        volume = self.find(volume_id)
        if volume is None:
            raise NotFound(f"network volume {volume_id}: there is none in this account")
        return volume

    def create(
        self, name: str, size_gb: int, data_center_id: str, volume_type: VolumeType | None = None
    ) -> NetworkVolume:
        """Adds a volume. None: of the data center's default tier. Raises BadRequest."""
        data_center = self._data_centers.get(data_center_id)
        if data_center is None or not data_center.volume_types:
            able = sorted(one.id for one in self._data_centers.values() if one.volume_types)
            raise BadRequest(
                f"dataCenter: {data_center_id} has no network volumes; the data centers with them are {', '.join(able)}"
            )
        volume_type = volume_type or data_center.volume_types[0]
        if volume_type not in data_center.volume_types:
            raise BadRequest(f"type: {data_center_id} has {', '.join(data_center.volume_types)}, not {volume_type}")
        volume_id = secrets.token_hex(5)
        volume = NetworkVolume(volume_id, name, data_center_id, volume_type, [(self._now_us(), size_gb)])
        self._volumes[volume_id] = volume
        return volume

    def change(self, volume: NetworkVolume, name: str | None = None, size_gb: int | None = None) -> None:
        """Renames a volume, lets it grow, or both. Raises BadRequest for a smaller size, and changes nothing then."""
        if size_gb is not None and size_gb < volume.size_gb:
            raise BadRequest(f"size: a network volume cannot shrink; it has {volume.size_gb} GB, got {size_gb}")
        if name is not None:
            volume.name = name
        if size_gb is not None and size_gb != volume.size_gb:
            volume.sizes.append((self._now_us(), size_gb))

    def delete(self, volume: NetworkVolume) -> None:
        """Removes a volume; its bill ends now."""
        del self._volumes[volume.id]
        volume.deleted_at_us = self._now_us()
        self.deleted.append(volume)
