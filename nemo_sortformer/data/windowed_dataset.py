# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Data sets whose items are windows of longer things: random ones by epoch, bad entries passed over and counted."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, TypeVar

import torch
from torch.utils.data import Dataset

from nemo_sortformer.data.failures import DATA_ERRORS, FailureLog, TooManyFailuresError

__all__ = ["WindowedDataset", "windows_in_a_row"]

ItemT = TypeVar("ItemT")


class WindowedDataset(Dataset[ItemT]):
    """Windows of a number of entries; a subclass says how an entry is cut, and reads a window.

    An entry that cannot be read is counted, named in a warning, and its windows are replaced by the next good one, as
    long as no more than a set share of the entries fail.

    Args:
        num_entries: how many entries there are.
        failures: counts those that cannot be read.
        training: draw windows at random.
        seed: of the random windows, which are a function of (seed, epoch, index) alone.
    """

    survived: tuple[type[Exception], ...] = DATA_ERRORS
    """Faults of the data."""

    def __init__(self, num_entries: int, failures: FailureLog, *, training: bool, seed: int) -> None:
        self.failures, self.training, self.seed = failures, training, seed
        # In shared memory, so that workers that live for several epochs see the new one.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        self.windows = [(entry, *window) for entry in range(num_entries) for window in self._cut(entry)]
        """Entry, start within it and length of each item, as :meth:`_cut` gives them."""

    @abstractmethod
    def _cut(self, entry_index: int) -> list[tuple[Any, Any]]:
        """Start and length of each item of an entry."""

    @abstractmethod
    def _read(self, index: int, entry_index: int, start: Any, length: Any) -> ItemT:
        """Make the item of a window."""

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def epoch(self) -> int:
        """The epoch that the random windows are drawn for."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Draw the windows of this epoch from now on, in all worker processes."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> ItemT:
        if not -len(self) <= index < len(self):
            raise IndexError(f"`index` must be less than {len(self)}, but is {index}.")
        index %= len(self)
        last_error: Exception | None = None
        for place in range(index, index + len(self)):
            window = self.windows[place % len(self)]
            if self.failures.has_failed(window[0]):
                continue
            try:
                return self._read(place % len(self), *window)
            except self.survived as error:
                last_error = error
                self.failures.record(error, index=window[0])
        raise TooManyFailuresError(f"Not one of the {self.failures.what} of the data set can be used.") from last_error


def windows_in_a_row(total: float, limit: float, *, shortest_tail: float) -> list[tuple[float, float]]:
    """Cut a length into windows that follow each other and cover all of it.

    Args:
        total: the length, more than `limit`.
        limit: length of a window.
        shortest_tail: a rest up to this belongs to the window before it.

    Returns:
        Start and length of each window.

    Example:
        >>> windows_in_a_row(25, 10, shortest_tail=1)
        [(0, 10), (10, 10), (20, 5)]
        >>> windows_in_a_row(20.5, 10, shortest_tail=1)
        [(0, 10), (10, 10.5)]
    """
    number = max(math.ceil((total - shortest_tail) / limit), 1)
    starts = [place * limit for place in range(number)]
    return [(start, limit) for start in starts[:-1]] + [(starts[-1], total - starts[-1])]
