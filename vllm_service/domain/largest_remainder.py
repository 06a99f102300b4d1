"""Splits a whole amount by weights into whole parts that add up to it."""

from __future__ import annotations

from collections.abc import Sequence


def split(amount: int, weights: Sequence[int]) -> list[int]:
    """Each part is its exact share rounded down or up; those with the largest remainders are rounded up.

    Of equal remainders the earlier goes first. Weights are not negative. ValueError: an amount nobody has a share in.
    """
    total = sum(weights)
    if total <= 0:
        if amount:
            raise ValueError(f"{amount} cannot be split: no weight is above 0")
        return [0] * len(weights)
    parts = [amount * weight // total for weight in weights]
    left = amount - sum(parts)
    by_remainder = sorted(range(len(weights)), key=lambda index: -(amount * weights[index] % total))
    for index in by_remainder[:left]:
        parts[index] += 1
    return parts
