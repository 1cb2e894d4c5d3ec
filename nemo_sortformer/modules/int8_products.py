# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Matrix products of 8-bit integers at inference: weights scaled row by row, inputs frame by frame as they come."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nemo_sortformer.modules.lean_products import is_pointwise

_MOST = 127
_LEAST_INPUTS = 16
"""Layers with fewer inputs gain nothing."""


def use_int8_products(module: nn.Module) -> None:
    """Replace the linear layers and pointwise convolutions in a module; it cannot be trained any more."""
    for parent in list(module.modules()):
        for name, part in list(parent.named_children()):
            pointwise = isinstance(part, nn.Conv1d) and is_pointwise(part)
            if (pointwise or isinstance(part, nn.Linear)) and part.weight.shape[1] >= _LEAST_INPUTS:
                weight = part.weight.detach()
                setattr(parent, name, (Int8Pointwise if pointwise else Int8Linear)(weight.flatten(1), part.bias))


class Int8Linear(nn.Module):
    """A linear layer of 8-bit integers.

    Each row of the weights has a scale, so that its largest is 127. Each frame has one as well, found when it comes:
    what is said of a frame depends neither on the others of its batch nor on any calibration. Products and their sums
    are exact in 32 bits.

    Args:
        weight: shape (outputs, inputs), float; at least two inputs.
        bias: shape (outputs,), or None.

    Raises:
        ValueError: there is one input, of which PyTorch's product of integers gives wrong numbers.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        if weight.shape[1] < 2:
            raise ValueError(f"`weight` must have at least 2 inputs, but has {weight.shape[1]}.")
        weight = weight.float()
        scale = weight.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / _MOST
        self.register_buffer("weight", (weight / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if bias is None else bias.detach().float())

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs), float32."""
        frames = x.reshape(-1, x.shape[-1]).float()
        scale = frames.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / _MOST
        sums = torch._int_mm((frames / scale).round_().to(torch.int8), self.weight.t())
        values = sums.float().mul_(scale).mul_(self.scale)
        return (values if self.bias is None else values.add_(self.bias)).unflatten(0, x.shape[:-1])


class Int8Pointwise(Int8Linear):
    """A convolution of one frame at a time, of 8-bit integers."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, frames) to (batch, outputs, frames), float32."""
        return super().forward(x.mT).mT
