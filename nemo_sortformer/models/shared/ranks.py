# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What a model must know of the other processes of a run: which data are its own, and how much theirs weigh."""

from __future__ import annotations

from lightning.pytorch import Trainer
from nemo.utils import logging
from torch import Tensor
from torch import distributed as dist

from nemo_sortformer.config import ParallelConfig


def data_share(trainer: Trainer | None, parallel: ParallelConfig | None) -> tuple[int, int]:
    """Which part of the data this process reads, and how many parts there are.

    Processes that split a layer among them read the same data; only the strategy `nemo_sortformer` has such.
    """
    if trainer is None:
        return 0, 1
    share = getattr(trainer.strategy, "data_share", None)
    if share is not None:
        return share(parallel)
    if parallel is not None and parallel != ParallelConfig():
        logging.warning("`model.parallel` changes nothing without `trainer.strategy=nemo_sortformer`.")
    return trainer.global_rank, trainer.world_size


def rank_weights(counts: Tensor) -> Tensor:
    """Factors on the losses of this process, so that their mean over processes is the mean over all that was counted.

    Each process has the mean over its own frames, and the gradients of all are averaged: frames of a process with few
    of them would count for more.

    Args:
        counts: how many frames (or other things) each loss of this process is a mean of, any shape, float32.

    Returns:
        This process's counts by their mean over processes, same shape; ones in a single process. Processes that repeat
        each other's data may take part. Nothing waits for the device.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return counts.new_ones(counts.shape)
    total = counts.clone()
    dist.all_reduce(total)
    return counts * dist.get_world_size() / total.clamp(min=1)
