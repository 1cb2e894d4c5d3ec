# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Whole tensors out of parts, and parts out of whole tensors, of weights and of an optimizer's state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer


@torch.no_grad()
def gather(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Whole tensors, in main memory, on process 0; an empty dict elsewhere. All processes must call this.

    One tensor at a time is whole on the other processes.
    """
    first = not dist.is_initialized() or dist.get_rank() == 0
    whole: dict[str, Any] = {}
    for name, value in tensors.items():
        if isinstance(value, DTensor):
            value = value.detach().full_tensor()
        if first:
            whole[name] = value.detach().cpu().clone() if isinstance(value, Tensor) else value
    return whole


@torch.no_grad()
def copy_whole(source: Tensor, target: Tensor) -> None:
    """Copy this process's part of the whole tensor `source` into `target`, without talking to the others."""
    target.copy_(part_like(source, target))


@torch.no_grad()
def part_like(whole: Tensor, like: Tensor) -> Tensor:
    """Divide a whole tensor as `like` is divided, on its device; a plain tensor where that is one."""
    whole = whole.detach().to(like.device)
    if not isinstance(like, DTensor):
        return whole.clone()
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def optimizer_tensors(optimizer: Optimizer, names: Mapping[int, str]) -> dict[str, Any]:
    """The state of an optimizer under `parameter/kind`.

    Args:
        optimizer: whose state.
        names: of the parameters, by `id`.
    """
    return {
        f"{names[id(parameter)]}/{kind}": value
        for parameter, state in optimizer.state.items()
        for kind, value in state.items()
    }


def fill_optimizer(optimizer: Optimizer, names: Mapping[int, str], given: Mapping[str, Any]) -> list[str]:
    """Set the state of an optimizer from whole tensors, or from parts divided as its parameters are.

    Returns:
        Names of trainable parameters without a state in `given`; they start anew.
    """
    by_name: dict[str, dict[str, Any]] = {}
    for key, value in given.items():
        name, _, kind = key.rpartition("/")
        by_name.setdefault(name, {})[kind] = value
    missing = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = by_name.get(names[id(parameter)])
            if state is None:
                if parameter.requires_grad:
                    missing.append(names[id(parameter)])
                continue
            optimizer.state[parameter] = {kind: _placed(value, parameter, group) for kind, value in state.items()}
    return missing


def _placed(value: Any, parameter: Tensor, group: Mapping[str, Any]) -> Any:
    if not isinstance(value, Tensor) or isinstance(value, DTensor):
        return value
    if value.shape == parameter.shape and value.dim():
        return part_like(value, parameter)
    on_device = group.get("fused") or group.get("capturable")  # of these, torch keeps the count of steps there
    return value.to(parameter.device) if on_device or value.dim() else value.cpu().clone()


def hyperparameters(optimizer: Optimizer, names: Mapping[int, str]) -> list[dict[str, Any]]:
    """The groups of an optimizer, with names in place of parameters."""
    return [
        {key: [names[id(one)] for one in value] if key == "params" else value for key, value in group.items()}
        for group in optimizer.param_groups
    ]


def set_hyperparameters(optimizer: Optimizer, groups: list[dict[str, Any]]) -> None:
    """Take over saved learning rates and the like; how a step is computed stays as it is set now."""
    kept = ("params", "fused", "foreach", "capturable", "differentiable")
    for group, saved in zip(optimizer.param_groups, groups):
        group.update({key: value for key, value in saved.items() if key not in kept})


def parameter_names(model: nn.Module) -> dict[int, str]:
    """Names of the parameters by `id`."""
    return {id(parameter): name for name, parameter in model.named_parameters()}
