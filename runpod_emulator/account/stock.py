"""How many workers the GPUs of each type can hold, and which type a new worker gets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Literal

from runpod_emulator.account.gpus import GpuType
from runpod_emulator.endpoint.placement import Placement

Level = Literal["HIGH", "MEDIUM", "LOW", "NONE"]

#: From so many free places on, the catalogue calls the stock so.
LEVELS: tuple[tuple[int, Level], ...] = ((10, "HIGH"), (3, "MEDIUM"), (1, "LOW"))


class Stock:
    """The places for workers, by GPU type and by pool. What is not limited has any number of them."""

    def __init__(self, gpu_types: Sequence[GpuType]) -> None:
        self._types = {gpu_type.id: gpu_type for gpu_type in gpu_types}
        self._limits: dict[str, int] = {}
        self._used: Counter[str] = Counter()

    def limit(self, name: str, workers: int | None) -> None:
        """Sets how many workers a pool or a GPU type can hold; None: any number. Running workers stay.

        Raises ValueError.
        """
        known = {*self._types, *(gpu_type.pool for gpu_type in self._types.values())}
        if name not in known:
            raise ValueError(f"stock: there is no GPU pool or type {name}; there are {', '.join(sorted(known))}")
        if workers is None:
            self._limits.pop(name, None)
        elif workers < 0:
            raise ValueError(f"stock of {name}: expected 0 workers or more, got {workers}")
        else:
            self._limits[name] = workers

    def free(self, gpu_type: GpuType) -> int | None:
        """Returns how many more workers this type can hold; None: any number."""
        used_in_pool = sum(count for used, count in self._used.items() if self._types[used].pool == gpu_type.pool)
        used = {gpu_type.id: self._used[gpu_type.id], gpu_type.pool: used_in_pool}
        free = [self._limits[name] - count for name, count in used.items() if name in self._limits]
        return max(0, min(free)) if free else None

    def level(self, gpu_type: GpuType) -> Level:
        """Returns the stock as the catalogue calls it."""
        free = self.free(gpu_type)
        return "HIGH" if free is None else next((level for least, level in LEVELS if free >= least), "NONE")

    def take(self, gpu_types: Sequence[GpuType], *, must: bool) -> GpuType | None:
        """Takes a place of the first type that has one, and returns it; with `must` the first type if none has."""
        found = next((one for one in gpu_types if self.free(one) != 0), gpu_types[0] if must else None)
        if found is not None:
            self._used[found.id] += 1
        return found

    def give_back(self, gpu_type_id: str) -> None:
        """Frees a place."""
        self._used[gpu_type_id] -= 1


class StockPlacer:
    """Places the workers of one endpoint on its GPU types, in their order.

    prices: of a worker's second by GPU type, all its GPUs together.
    """

    def __init__(
        self, stock: Stock, prices: Sequence[tuple[GpuType, Decimal]], gpu_count: int, data_center_id: str
    ) -> None:
        self._stock = stock
        self._prices = dict(prices)
        self._gpu_count = gpu_count
        self._data_center_id = data_center_id

    def place(self, *, must: bool) -> Placement | None:
        """Implements Placer."""
        gpu_type = self._stock.take(tuple(self._prices), must=must)
        if gpu_type is None:
            return None
        return Placement(
            gpu_type_id=gpu_type.id,
            gpu_count=self._gpu_count,
            data_center_id=self._data_center_id,
            usd_per_second=self._prices[gpu_type],
        )

    def vacate(self, placement: Placement) -> None:
        """Implements Placer."""
        if placement.gpu_type_id is not None:
            self._stock.give_back(placement.gpu_type_id)
