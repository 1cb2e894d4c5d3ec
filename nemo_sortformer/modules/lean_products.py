# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Matrix products at inference on a CPU by its fastest library, with the same weights and the same numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
"""oneDNN's product, which PyTorch keeps for its compiler; older and later versions may have none."""


def lean_now(module: nn.Module) -> bool:
    """Whether a module may take the lean way now: evaluation, no gradient, nobody who records the operations."""
    return not (
        module.training or torch.is_grad_enabled() or torch.jit.is_tracing() or torch.compiler.is_compiling()
    )  # torch.export and the ONNX exporter compile or trace


def use_lean_products(module: nn.Module) -> None:
    """Let the linear layers and pointwise convolutions in a module take oneDNN at inference on a CPU.

    PyTorch gives float32 products to MKL, which on processors of other makers than Intel runs at a half or a fifth of
    their rate; oneDNN knows them. Only classes are changed: parameters, `state_dict`, gradients and export stay.
    """
    for part in module.modules():
        if type(part) is nn.Linear:
            part.__class__ = LeanLinear
        elif type(part) is nn.Conv1d and is_pointwise(part):
            part.__class__ = LeanPointwise


def is_pointwise(conv: nn.Conv1d) -> bool:
    """Whether a convolution looks at one frame at a time, with all channels."""
    plain = conv.kernel_size == conv.stride == conv.dilation == (1,) and conv.groups == 1
    return plain and conv.padding in ((0,), "valid", "same")


class LeanLinear(nn.Linear):
    """A linear layer that takes oneDNN where that gives the same numbers."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        return fast_linear(x, self.weight, self.bias) if lean_now(self) else super().forward(x)


class LeanPointwise(nn.Conv1d):
    """A convolution of one frame at a time as what it is: a product."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, frames) to (batch, outputs, frames), a view with the frames outside."""
        if not lean_now(self) or x.device.type != "cpu" or x.dim() != 3:
            return super().forward(x)
        return fast_linear(x.mT, self.weight[:, :, 0], self.bias).mT


def fast_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As :func:`torch.nn.functional.linear`, without gradients; float32 on a CPU goes through oneDNN."""
    fits = (
        _ONEDNN is not None
        and type(x) is Tensor
        and type(weight) in (Tensor, nn.Parameter)  # not one that lies on several devices
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and x.numel() > 0
        and torch.backends.mkldnn.enabled
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled("cpu")
    )
    return _ONEDNN(x.contiguous(), weight, bias, "none", [], "") if fits else F.linear(x, weight, bias)
