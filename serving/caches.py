"""LRU caches with byte budgets: any values, and styles in host and device memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import torch

from factory.methods import Style

V = TypeVar("V")


class ByteLru(Generic[V]):
    """Thread-safe LRU cache with a byte budget. Pinned keys are evicted last.

    A value larger than the budget is evicted at once. size: bytes of a value.
    """

    def __init__(self, budget: int, size: Callable[[V], int]) -> None:
        self.budget, self._size = budget, size
        self.bytes = self.hits = self.misses = self.evictions = 0
        self.pinned: frozenset[str] = frozenset()
        self._values: OrderedDict[str, V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> V | None:
        with self._lock:
            value = self._values.get(key)
            if value is None:
                self.misses += 1
            else:
                self.hits += 1
                self._values.move_to_end(key)
            return value

    def put(self, key: str, value: V) -> None:
        with self._lock:
            if (old := self._values.pop(key, None)) is not None:
                self.bytes -= self._size(old)
            self._values[key] = value
            self.bytes += self._size(value)
            for other in sorted(self._values, key=lambda k: k in self.pinned):
                if self.bytes <= self.budget:
                    break
                self.bytes -= self._size(self._values.pop(other))
                self.evictions += 1

    def __len__(self) -> int:
        return len(self._values)


class StyleCache:
    """Styles in host memory, and recently used styles on the device. Budgets in bytes."""

    def __init__(self, host_budget: int, device_budget: int, device: torch.device) -> None:
        self.device = device
        self.host: ByteLru[Style] = ByteLru(host_budget, lambda style: style.nbytes)
        self.on_device: ByteLru[Style] = ByteLru(device_budget, lambda style: style.nbytes)
        self.loads = 0

    def pin(self, keys: Iterable[str]) -> None:
        self.host.pinned = self.on_device.pinned = frozenset(keys)

    def to_device(self, key: str, style: Style) -> Style:
        """A copy of the style on the device, from the cache if possible."""
        if self.device.type == "cpu":
            return style
        if (copy := self.on_device.get(key)) is None:
            copy = style.to(self.device, non_blocking=True)
            self.on_device.put(key, copy)
        return copy
