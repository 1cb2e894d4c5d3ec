# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Layers that keep only their input for the backward pass, or that are compiled; names of parameters do not change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from nemo_sortformer.distributed import units


def compile_layers(model: nn.Module) -> int:
    """Compile the computation of each layer, its gathering and division left outside.

    Returns:
        How many layers.
    """
    found = [layer for _, encoder in units.encoders(model) for layer in units.layers(encoder)]
    for layer in found:
        layer.forward = torch.compile(layer.forward)  # type: ignore[method-assign]
    return len(found)


def recompute_layers(model: nn.Module) -> int:
    """Let each layer compute its inner values anew in the backward pass, with the same dropout.

    Returns:
        How many layers.
    """
    found = [layer for _, encoder in units.encoders(model) for layer in units.layers(encoder)]
    for layer in found:
        layer.forward = _Recomputed(layer)  # type: ignore[method-assign, assignment]
    return len(found)


class _Recomputed:
    """The `forward` of a layer, recomputed where a gradient is wanted."""

    def __init__(self, layer: nn.Module) -> None:
        self.forward = layer.forward
        self.norms = [module for module in layer.modules() if isinstance(module, _BatchNorm)]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.forward(*args, **kwargs)
        contexts = partial(self._contexts)
        return checkpoint(self.forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_counted_once(self.norms)


@contextmanager
def _statistics_counted_once(norms: list[_BatchNorm]) -> Iterator[None]:
    """Batch norms have counted the batch in the first computation: now their statistics move by nothing."""
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before):
            norm.momentum = momentum
            if norm.training and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.sub_(1)
