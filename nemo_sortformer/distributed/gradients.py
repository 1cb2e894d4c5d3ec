# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Gradients whose parts lie on many processes, in whatever layout: one norm, one verdict, one clipping."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def local_gradients(parameters: Iterable[Tensor]) -> list[tuple[Tensor, float]]:
    """This process's parts of the gradients, each with its weight.

    The weight is the share of this process in a value that several processes hold: with it, sums over all processes
    count each element once, whichever dimensions of the mesh a parameter is divided or repeated over.
    """
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    pairs: list[tuple[Tensor, float]] = []
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is None:
            continue
        num_parts = 1
        if isinstance(gradient, DTensor):
            if any(placement.is_partial() for placement in gradient.placements):  # a sum not yet made
                whole = [Replicate() if one.is_partial() else one for one in gradient.placements]
                gradient = parameter.grad = gradient.redistribute(placements=whole)
            for dimension, placement in enumerate(gradient.placements):
                if not placement.is_replicate():
                    num_parts *= gradient.device_mesh.size(dimension)
            gradient = gradient.to_local()
        pairs.append((gradient, num_parts / world_size))
    return pairs


@torch.no_grad()
def global_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Euclidean norm of the whole gradient: a scalar, the same on all processes, not finite if any part is not.

    All processes must call this; nothing waits for the device.
    """
    by_weight: defaultdict[float, list[Tensor]] = defaultdict(list)
    pairs = local_gradients(parameters)
    for gradient, weight in pairs:
        if gradient.numel():
            by_weight[weight].append(gradient)
    if pairs:
        total = torch.zeros((), device=pairs[0][0].device)
    else:
        total = torch.zeros(())
    for weight, gradients in by_weight.items():
        total = total + weight * torch.nn.utils.get_total_norm(gradients).float().square()
    if dist.is_initialized():
        dist.all_reduce(total)
    return total.sqrt()


@torch.no_grad()
def scale_gradients(parameters: Iterable[Tensor], factor: Tensor | float) -> None:
    """Multiply all gradients by `factor`, in place."""
    gradients = [gradient for gradient, _ in local_gradients(parameters)]
    if gradients:
        torch._foreach_mul_(gradients, factor)


@torch.no_grad()
def clip_by_norm(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale the gradients down so that their global norm is at most `max_norm`; returns the norm before that."""
    parameters = list(parameters)
    norm = global_norm(parameters)
    scale_gradients(parameters, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


@torch.no_grad()
def clip_by_value(parameters: Iterable[Tensor], max_value: float) -> None:
    """Bring each element of the gradients into [-max_value, max_value]."""
    for gradient, _ in local_gradients(parameters):
        gradient.clamp_(-max_value, max_value)
