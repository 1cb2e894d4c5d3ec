# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""A loader whose iteration goes on where a checkpoint was made, and ends at the same batch on all processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from nemo.utils import logging
from torch import nn
from torch.utils.data import DataLoader, IterableDataset
from torchmetrics import Metric


@dataclass(frozen=True)
class Filler:
    """A batch that a process runs only because others still have some: it must not be counted."""

    batch: Any

    def to(self, device: Any, **options: Any) -> Filler:
        """Move the batch, as Lightning asks of batches of unknown type."""
        from lightning.fabric.utilities import move_data_to_device

        return Filler(move_data_to_device(self.batch, device))


class SharedLoader:
    """Wraps a loader for a run of several processes; everything but iteration and length is the loader's own.

    Layers are gathered from all processes, so that all must run equally many batches. In training the first process to
    run out ends the epoch for all; in evaluation those that have run out repeat a batch, uncounted, until the last is
    through. All processes must make this together. Where the lengths are known and equal, nobody is asked any more.

    Args:
        loader: this process's loader.
        trainer: says which epoch it is, and how many batches of it a checkpoint had seen.
        group: processes to agree with, through main memory.
    """

    def __init__(self, loader: Any, trainer: Trainer, *, group: Any) -> None:
        self.__dict__["loader"] = loader
        self._trainer = trainer
        self._group = group
        self._is_training = trainer.training
        self._lengths = self._everyone(_length(loader))
        if self._is_training and -1 not in self._lengths and len(set(self._lengths)) > 1:
            logging.warning(
                f"The processes have {self._lengths} batches of training data: each epoch ends after "
                f"{min(self._lengths)}, and the rest is left out."
            )

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["loader"], name)

    def __len__(self) -> int:
        if -1 in self._lengths:
            raise TypeError("The loader has no length.")
        return min(self._lengths) if self._is_training else max(self._lengths)

    def __iter__(self) -> Iterator[Any]:
        batches = self._resumed() if self._is_training else iter(self.loader)
        if -1 not in self._lengths and len(set(self._lengths)) == 1:
            return batches
        return self._until_one_ends(batches) if self._is_training else self._until_all_end(batches)

    def _resumed(self) -> Iterator[Any]:
        loop = self._trainer.fit_loop
        if loop.epoch_loop.restarting:
            self._trainer.strategy.recount_batches(self.loader)
        done = loop.epoch_loop.batch_progress.current.completed if loop.epoch_loop.restarting else 0
        epoch = loop.epoch_progress.current.processed
        for sampler in {id(one): one for one in _samplers(self.loader)}.values():
            sampler.set_epoch(epoch)  # Lightning does so after the first batches are on their way
        return iter(rest_of(self.loader, done)) if done else iter(self.loader)

    def _until_one_ends(self, batches: Iterator[Any]) -> Iterator[Any]:
        missing = object()
        for count in range(2**62):
            batch = next(batches, missing)
            have = self._everyone(int(batch is not missing))
            if not all(have):
                if any(have):
                    logging.warning(
                        f"After {count} batches {have.count(0)} of {len(have)} processes have no further one, so the "
                        f"epoch ends for all; the rest of their data is left out."
                    )
                return
            yield batch

    def _until_all_end(self, batches: Iterator[Any]) -> Iterator[Any]:
        missing = object()
        last: Any = missing
        while True:
            batch = next(batches, missing)
            have = self._everyone(int(batch is not missing))
            if not any(have):
                return
            if batch is not missing:
                last = batch
            elif last is missing:
                last = None
            if not all(have) and min(self._everyone(int(last is not None))) == 0:
                last = self._borrowed(last, lender=have.index(1))
            yield batch if batch is not missing else Filler(last)

    def _borrowed(self, batch: Any, *, lender: int) -> Any:
        """Give those that never had a batch one of another process."""
        lent = [batch if lender == dist.get_rank() else None]
        dist.broadcast_object_list(lent, src=lender, group=self._group)
        return lent[0] if batch is None else batch

    def _everyone(self, value: int) -> list[int]:
        values = torch.zeros(dist.get_world_size(), dtype=torch.int64)
        values[dist.get_rank()] = value
        dist.all_reduce(values, group=self._group)
        return values.tolist()


def rest_of(loader: Any, num_batches: int) -> Any:
    """What a loader gives after its first batches; where an index chooses the items, those are not read."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return islice(loader, num_batches, None)
    by_batch = loader.batch_sampler is not None
    options = {"batch_sampler" if by_batch else "sampler": _Rest(loader.batch_sampler or loader.sampler, num_batches)}
    return DataLoader(
        loader.dataset,
        **options,
        **({} if by_batch else {"batch_size": None}),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        timeout=loader.timeout,
    )


class _Rest:
    """A sampler without its first elements."""

    def __init__(self, sampler: Any, start: int) -> None:
        self.sampler, self.start = sampler, start

    def __iter__(self) -> Iterator[Any]:
        return islice(self.sampler, self.start, None)

    def __len__(self) -> int:
        return max(0, len(self.sampler) - self.start)


def _samplers(loader: Any) -> list[Any]:
    found = [getattr(loader, "sampler", None), getattr(getattr(loader, "batch_sampler", None), "sampler", None)]
    return [one for one in found if callable(getattr(one, "set_epoch", None))]


def _length(loader: Any) -> int:
    try:
        return len(loader)
    except TypeError:
        return -1


@contextmanager
def uncounted(model: nn.Module) -> Iterator[None]:
    """Undo within the context whatever it adds to the metrics of `model`."""
    kept = []
    for metric in model.modules():
        if isinstance(metric, Metric):
            states = {name: _copied(value) for name, value in metric.metric_state.items()}
            kept.append((metric, states, metric._update_count, metric._computed))
    try:
        yield
    finally:
        for metric, states, count, computed in kept:
            for name, value in states.items():
                setattr(metric, name, value)
            metric._update_count, metric._computed = count, computed


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else list(value)
