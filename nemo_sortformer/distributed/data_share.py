# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Processes that share layers must read the same data: loaders that do otherwise are put right, or refused.

NeMo's lhotse loaders give each process a share of its own. With tensor parallelism that is wrong, and nothing fails:
each process computes its part of a layer for another batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch.distributed as dist

from nemo_sortformer.config import ConfigError

_DRAWN = "trng"
"""lhotse's word for a seed that each process draws by itself."""


def read_data_share(loader: Any, rank: int, size: int) -> None:
    """Let a lhotse sampler that is in this process choose the share `rank` of `size`; others are left as they are.

    Args:
        loader: a loader that has not been iterated yet.
        rank: number of this process among those that read different data.
        size: how many those are.
    """
    from lhotse.dataset.sampling.base import CutSampler

    for sampler in _samplers(getattr(loader, "sampler", None)):
        if isinstance(sampler, CutSampler) and sampler.world_size > 1:
            sampler.rank, sampler.world_size = rank, size


def check_same_share(loader: Any, tensor_size: int, group: Any) -> None:
    """Compare what processes that share layers say about their data; all processes must call this.

    Args:
        loader: the loader of this process.
        tensor_size: how many neighbouring processes share layers.
        group: all processes, through main memory.

    Raises:
        ConfigError: they would read different data.
    """
    everyone: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(everyone, describe_share(loader), group=group)
    refuse_unlike(everyone, tensor_size)


def refuse_unlike(everyone: list[dict[str, Any]], tensor_size: int) -> None:
    """Raise ``ConfigError`` where neighbours' shares differ; `everyone`: one of :func:`describe_share` each."""
    for first in range(0, len(everyone), tensor_size):
        for rank in range(first + 1, first + tensor_size):
            ours, theirs = everyone[first], everyone[rank]
            if ours == theirs and _DRAWN not in ours.values():
                continue
            size = f"model.parallel.tensor_parallel_size: {tensor_size}"
            raise ConfigError(
                f"With `{size}` the processes {first} and {rank} share each layer, so they must read the same data, "
                f"but the loader of {first} has {ours} and that of {rank} has {theirs} (`{_DRAWN}` is another number "
                f"in each process). Set numbers as `seed` and `shard_seed` of the data; for shards that workers read, "
                f"use this collection's own data sets, or make the loader for the share "
                f"`trainer.strategy.data_parallel_rank` of `data_parallel_size`; or set `tensor_parallel_size: 1`."
            )


def describe_share(loader: Any) -> dict[str, Any]:
    """What decides which data a loader reads, as far as its samplers and its workers' first function say."""
    found: dict[str, Any] = {}
    streamed = getattr(getattr(loader, "dataset", None), "sampler", None)
    roots = [getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None), streamed]
    for number, sampler in enumerate(one for root in roots for one in _samplers(root)):
        seed = ("seed",) if getattr(sampler, "shuffle", True) else ()
        for name in ("rank", "world_size", "num_replicas", *seed):
            value = getattr(sampler, name, None)
            if isinstance(value, (int, str)):
                found[f"{type(sampler).__name__} {number} {name}"] = value
    start = getattr(loader, "worker_init_fn", None)
    if isinstance(start, partial):
        found |= {
            f"worker {name}": start.keywords[name] for name in ("rank", "world_size", "seed") & start.keywords.keys()
        }
    return found


def _samplers(sampler: Any) -> Iterator[Any]:
    """A sampler and all that it takes from."""
    if sampler is None:
        return
    yield sampler
    inner = [getattr(sampler, "sampler", None), *(getattr(sampler, "samplers", None) or [])]
    for one in inner:
        yield from _samplers(one)
