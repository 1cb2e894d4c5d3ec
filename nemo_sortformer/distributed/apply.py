# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Makes a parallel model out of a plain one, in place and from outside."""

from __future__ import annotations

import random
from collections import defaultdict

import numpy as np
import torch
import torch.distributed as dist
from nemo.utils import logging
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule

from nemo_sortformer.config import ConfigError, ParallelConfig
from nemo_sortformer.distributed import recompute, units
from nemo_sortformer.distributed.fp8 import convert_layers
from nemo_sortformer.distributed.sharding import shard

DIMENSIONS = ("dp_replicate", "dp_shard", "tensor_parallel")


def build_mesh(config: ParallelConfig, device_type: str) -> DeviceMesh:
    """Arrange all processes by `DIMENSIONS`; the first two together are also there as `data_parallel`.

    Raises:
        ConfigError: the sizes do not divide the number of processes.
    """
    mesh = init_device_mesh(device_type, config.mesh_shape(dist.get_world_size()), mesh_dim_names=DIMENSIONS)
    mesh[DIMENSIONS[:2]]._flatten("data_parallel")
    return mesh


def apply(
    model: nn.Module,
    config: ParallelConfig,
    mesh: DeviceMesh,
    *,
    dtype: str | None = None,
    emulate_fp8: bool = False,
) -> list[FSDPModule]:
    """Give all processes the weights of the first, then split, recompute, compile and divide the model as settled.

    Args:
        model: on its device, built alike on all processes; its weights may differ.
        config: what to do.
        mesh: of :func:`build_mesh`.
        dtype: where `config.dtype` leaves it open; float32 by default.
        emulate_fp8: see :func:`~nemo_sortformer.distributed.fp8.convert_layers`.

    Returns:
        The divided modules; see :func:`~nemo_sortformer.distributed.sharding.shard`.

    Raises:
        ConfigError: the model has no layers to work on, sizes do not divide, or float8 cannot be had.
    """
    broadcast_weights(model)
    convert_layers(model, config, emulate=emulate_fp8)
    for module in model.modules():
        if getattr(module, "sync_max_audio_length", False):  # NeMo's encoder would make the host wait at each step
            module.sync_max_audio_length = False
    if config.tensor_parallel_size > 1:
        from nemo_sortformer.distributed.tensor_parallel import parallelize_tensors

        parallelize_tensors(model, mesh["tensor_parallel"], sequence_parallel=config.sequence_parallel)
    if config.compile or config.activation_checkpointing:
        if not any(True for _ in units.encoders(model)):
            raise ConfigError(
                "`compile` and `activation_checkpointing` work on the layers of encoders, but this model has no "
                "module with a list of `layers`."
            )
        if config.compile:
            recompute.compile_layers(model)
        if config.activation_checkpointing:
            recompute.recompute_layers(model)
    roots = shard(model, mesh, config, dtype=config.dtype or dtype or "fp32")
    logging.info(describe(model, mesh, config, dtype=config.dtype or dtype or "fp32"))
    return roots


@torch.no_grad()
def broadcast_weights(model: nn.Module) -> None:
    """Copy parameters and buffers of process 0 to all: only it loads the weights that a run starts from."""
    by_dtype: defaultdict[torch.dtype, list[torch.Tensor]] = defaultdict(list)
    for tensor in (*model.parameters(), *model.buffers()):
        by_dtype[tensor.dtype].append(tensor.data)
    for tensors in by_dtype.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.broadcast(flat, src=0)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
            tensor.copy_(part.view_as(tensor))


def seed_by_data_share(base: int, data_rank: int) -> None:
    """Seed python, NumPy and torch: alike where the same data are worked on, apart elsewhere."""
    seed = (base + data_rank) % 2**32
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def describe(model: nn.Module, mesh: DeviceMesh, config: ParallelConfig, *, dtype: str) -> str:
    """One line about the layout."""
    total = sum(parameter.numel() for parameter in model.parameters())
    here = sum(
        (parameter.to_local() if hasattr(parameter, "to_local") else parameter).numel()
        for parameter in model.parameters()
    )
    sizes = " x ".join(f"{mesh[name].size()} {name}" for name in DIMENSIONS)
    return f"Layout {sizes}, ZeRO stage {config.zero_stage}, {dtype}: {here} of {total} parameters on each process."
