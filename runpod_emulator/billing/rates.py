"""The prices of what is billed beside GPUs (RunPod's documentation, 2026-08). They change, so each one is a field."""

from __future__ import annotations

from dataclasses import dataclass, fields
from decimal import Decimal
from fractions import Fraction

#: A twelfth of a year of 365 days: what a price per month is divided by.
SECONDS_PER_MONTH = 730 * 3600


@dataclass(frozen=True, kw_only=True)
class BillingRates:
    """The account's prices in USD. Raises ValueError for one that is no amount of 0 or more."""

    #: A worker's container disk, while the worker is billed.
    disk_usd_per_gb_month: Decimal = Decimal("0.10")
    #: A standard network volume, and its GB above the first `volume_first_gb`.
    volume_usd_per_gb_month: Decimal = Decimal("0.07")
    large_volume_usd_per_gb_month: Decimal = Decimal("0.05")
    volume_first_gb: Decimal = Decimal(1000)
    #: A high-performance volume. RunPod's documentation gives no price: this one is the emulator's assumption.
    high_performance_usd_per_gb_month: Decimal = Decimal("0.14")
    #: The platform's fee as a share of the GPUs' price. RunPod's bill has the field, its documentation no rate.
    fee_share: Decimal = Decimal(0)

    def __post_init__(self) -> None:
        for rate in fields(self):
            value = getattr(self, rate.name)
            if not isinstance(value, Decimal) or not value.is_finite() or value < 0:
                raise ValueError(f"{rate.name}: expected a Decimal of 0 or more, got {value!r}")

    def disk_usd_per_second(self, disk_gb: int) -> Fraction:
        """Returns the price of a worker's disk."""
        return Fraction(self.disk_usd_per_gb_month) * disk_gb / SECONDS_PER_MONTH

    def volume_usd_per_second(self, size_gb: int, *, high_performance: bool = False) -> Fraction:
        """Returns the price of a network volume."""
        if high_performance:
            return Fraction(self.high_performance_usd_per_gb_month) * size_gb / SECONDS_PER_MONTH
        first = min(Fraction(size_gb), Fraction(self.volume_first_gb))
        usd = first * Fraction(self.volume_usd_per_gb_month)
        usd += (size_gb - first) * Fraction(self.large_volume_usd_per_gb_month)
        return usd / SECONDS_PER_MONTH
