# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""A stream of items that are made on the fly, each a function of its numbers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

ItemT = TypeVar("ItemT")


class NumberedStream(IterableDataset[ItemT]):
    """Item number n of worker w of rank r in epoch e is a function of ``(seed, e, r, w, n)`` only.

    So a run with the same numbers of ranks and workers sees the same data. All ranks give equally many items.

    Args:
        items_per_epoch: over all ranks and workers.
        seed: start of all draws.
        rank: number of this process among those that train together.
        world_size: how many those are.

    Raises:
        ValueError: `rank` is none of `world_size`.
    """

    def __init__(self, items_per_epoch: int, *, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        super().__init__()
        if not 0 <= rank < world_size:
            raise ValueError(f"`rank` must be in [0, world_size), but is {rank} of {world_size}.")
        self.items_per_epoch = items_per_epoch
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers that live on see the new epoch, too

    def __len__(self) -> int:
        """Items per epoch on this rank."""
        return max(1, self.items_per_epoch // self.world_size)

    @property
    def epoch(self) -> int:
        """Number of the epoch that the next iteration gives."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning and NeMo call this at its start."""
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[ItemT]:
        info = get_worker_info()
        worker, num_workers = (0, 1) if info is None else (info.id, info.num_workers)
        epoch = self.epoch
        for number in range((len(self) - worker + num_workers - 1) // num_workers):
            yield self.conversation(epoch, worker, number)

    @abstractmethod
    def conversation(self, epoch: int, worker: int, number: int) -> ItemT:
        """Make one item by its numbers."""

    def generator(self, epoch: int, worker: int, number: int) -> np.random.Generator:
        """The source of all draws of one item."""
        return np.random.default_rng([self.seed, epoch, self.rank, worker, number])

    def name(self, epoch: int, worker: int, number: int) -> str:
        """What an item is called."""
        return f"mixed-{epoch}-{self.rank}-{worker}-{number}"
