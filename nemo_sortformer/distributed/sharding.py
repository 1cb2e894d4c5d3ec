# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Divides parameters, gradients and optimizer state among data-parallel processes, on PyTorch's `fully_shard`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed.fsdp as fsdp
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.nn.modules.batchnorm import _BatchNorm

from nemo_sortformer.config import ConfigError, ParallelConfig
from nemo_sortformer.distributed import units
from nemo_sortformer.distributed.gradients import DTYPES


def shard(model: nn.Module, mesh: DeviceMesh, config: ParallelConfig, *, dtype: str) -> list[FSDPModule]:
    """Divide the parameters of `model` in place: each becomes a float32 part per process, gathered in `dtype` for use.

    Each layer of an encoder is gathered by itself, the rest of the encoder as one; outside the encoders the smallest
    modules with parameters, and heads that write token by token as a whole. Batch norms are gathered in float32. The
    model itself is not wrapped, as NeMo calls its methods directly.

    Args:
        model: whole and alike on all processes, or split by tensor parallelism already.
        mesh: dimensions `dp_replicate`, `dp_shard`, `tensor_parallel`.
        config: stage and sizes.
        dtype: `fp32`, `bf16` or `fp16`.

    Returns:
        The outermost divided modules, for :func:`hold_back`.

    Raises:
        ConfigError: a parameter belongs to two modules that are gathered apart, or to the model itself.
    """
    _check_owners(model)
    half = DTYPES[dtype]
    mixed = MixedPrecisionPolicy() if dtype == "fp32" else MixedPrecisionPolicy(half, torch.float32)
    exact = MixedPrecisionPolicy(cast_forward_inputs=False)
    copies = mesh["dp_replicate"].size() > 1
    options = {
        "mesh": mesh["dp_replicate", "dp_shard"] if copies else mesh["dp_shard"],
        "reshard_after_forward": config.zero_stage == 3,
    }
    roots: list[FSDPModule] = []
    stacks = list(units.stacks(model))
    heads = list(units.head_parts(model))
    if dtype != "fp32":
        for module in [module for module in model.modules() if isinstance(module, _BatchNorm)]:
            if units.has_parameters(module):
                fully_shard(module, mp_policy=exact, **options)
    for _, encoder in stacks:
        for layer in units.layers(encoder):
            fully_shard(layer, mp_policy=mixed, **options)
        roots.append(fully_shard(encoder, mp_policy=mixed, **options))
        for method in units.entries(encoder):
            register_fsdp_forward_method(encoder, method)
    for _, module in heads:
        if not isinstance(module, FSDPModule):
            roots.append(fully_shard(module, mp_policy=mixed, **options))
            for method in units.entries(module):
                register_fsdp_forward_method(module, method)
        for part in module.modules():
            if isinstance(part, nn.RNNBase):
                part.register_forward_pre_hook(_take_gathered_weights)
    inner = {id(part) for root in roots for part in root.modules() if part is not root}
    roots = [root for root in roots if id(root) not in inner]  # a head may have an encoder of its own
    if hasattr(fsdp, "share_comm_ctx") and torch.device(mesh.device_type).type == "cuda":
        fsdp.share_comm_ctx(roots)
    return roots


def _take_gathered_weights(module: nn.RNNBase, _: object) -> None:
    """An RNN keeps a list of its weights, which would go on naming the divided ones."""
    module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]


def _check_owners(model: nn.Module) -> None:
    own = [name for name, _ in model.named_parameters(recurse=False)]
    if own:
        raise ConfigError(
            f"Parameters of the model itself cannot be divided, but it has `{own[0]}`. Move it to a module."
        )
    heads = {id(part): name for name, head in units.writers(model) for part in head.modules()}
    seen: dict[int, tuple[str, str]] = {}
    for prefix, module in model.named_modules():
        unit = heads.get(id(module), prefix)
        for name, parameter in module.named_parameters(recurse=False):
            full_name = f"{prefix}.{name}"
            first_unit, first_name = seen.setdefault(id(parameter), (unit, full_name))
            if first_unit != unit:
                hint = " Set `model.encoder.untie_biases: true`." if name.startswith("pos_bias") else ""
                raise ConfigError(
                    f"A parameter must belong to one module to be divided, but `{full_name}` and `{first_name}` are "
                    f"the same.{hint}"
                )


def put_to_rest(model: nn.Module) -> None:
    """Free gathered parameters, so that the model names its divided ones again.

    Below stage 3 a forward pass without a backward pass leaves them gathered, in half precision: weights that are then
    changed, averaged or saved would be changed, averaged or saved in vain.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@contextmanager
def hold_back(roots: list[FSDPModule], *, zero_stage: int) -> Iterator[None]:
    """Run a micro-batch whose gradient is only summed up, as further ones come before the optimizer's step.

    Stages 0 and 1 keep the sum whole, in float32, and exchange it once per step; stages 2 and 3 exchange each
    micro-batch among the parts, and among the copies once per step. Parameters stay gathered below stage 3.
    """
    for root in roots:
        root.set_reshard_after_backward(zero_stage == 3)
        root.set_requires_all_reduce(False)
        if zero_stage <= 1:
            root.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        for root in roots:
            root.set_reshard_after_backward(True)
            root.set_requires_gradient_sync(True)
            root.set_requires_all_reduce(True)
