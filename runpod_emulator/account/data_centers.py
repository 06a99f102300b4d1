"""Data centers that RunPod's documentation names (2026-08). They change, so an account can be given others.

Which ones have network volumes is from the documentation, too. Names, storage tiers, compliance and networking are
examples of the emulator's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

VolumeType = Literal["STANDARD", "HIGH_PERFORMANCE"]
STANDARD: tuple[VolumeType, ...] = ("STANDARD",)
BOTH: tuple[VolumeType, ...] = ("STANDARD", "HIGH_PERFORMANCE")


@dataclass(frozen=True, kw_only=True)
class DataCenter:
    """One data center. Its id and region are RunPod's."""

    id: str
    name: str
    region: str
    #: ISO 3166-1 alpha-2.
    country: str
    #: The tiers of network volumes, the default one first. Empty: it has no volumes.
    volume_types: tuple[VolumeType, ...] = STANDARD
    compliance: tuple[str, ...] = ()
    global_network: bool = False


#: The CUDA versions of every machine; an example of the emulator's.
CUDA_VERSIONS = ("12.4", "12.6", "12.8", "12.9", "13.0")

DATA_CENTERS: tuple[DataCenter, ...] = (
    DataCenter(id="US-KS-2", name="US Kansas 2", region="NORTH_AMERICA", country="US", volume_types=BOTH),
    DataCenter(id="US-CA-2", name="US California 2", region="NORTH_AMERICA", country="US", global_network=True),
    DataCenter(id="US-GA-2", name="US Georgia 2", region="NORTH_AMERICA", country="US"),
    DataCenter(id="US-TX-3", name="US Texas 3", region="NORTH_AMERICA", country="US", volume_types=()),
    DataCenter(
        id="EU-RO-1",
        name="EU Romania 1",
        region="EUROPE",
        country="RO",
        volume_types=BOTH,
        compliance=("GDPR", "ISO_IEC_27001", "SOC_2_TYPE_2"),
        global_network=True,
    ),
    DataCenter(id="EU-CZ-1", name="EU Czechia 1", region="EUROPE", country="CZ", compliance=("GDPR",)),
    DataCenter(id="EUR-IS-1", name="Europe Iceland 1", region="EUROPE", country="IS", compliance=("GDPR", "RENEWABLE")),
    DataCenter(id="EUR-NO-1", name="Europe Norway 1", region="EUROPE", country="NO", compliance=("GDPR", "RENEWABLE")),
    DataCenter(id="AP-JP-1", name="Asia Japan 1", region="ASIA", country="JP", volume_types=()),
)
