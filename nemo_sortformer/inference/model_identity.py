# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""By what a model is known again: its sizes and a few of its weights, the same on every device and in every dtype."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from nemo_sortformer.models.diarizer.model import SortformerDiarizer

_VALUES_PER_TENSOR = 2
_LARGEST_ROUNDING = 2**-6
"""Relative difference between a float32 weight and itself after bfloat16 and float16, with room."""


class ModelIdentity(NamedTuple):
    """What a stream remembers of its model."""

    name: str
    """Class and sizes, and a short hash of the weights' shapes."""
    weights: torch.Tensor
    """Some of the weights, float32, on the CPU."""
    dtype: str
    """In which they were read."""

    def matches(self, other: ModelIdentity) -> bool:
        """Whether both are of the same weights, be it in different dtypes."""
        if self.name != other.name or self.weights.shape != other.weights.shape:
            return False
        if self.dtype == other.dtype:
            return torch.equal(self.weights, other.weights)
        return torch.allclose(self.weights, other.weights, rtol=_LARGEST_ROUNDING, atol=1e-6)

    def __str__(self) -> str:
        return f"{self.name}/{hashlib.sha256(self.weights.numpy().tobytes()).hexdigest()[:8]}"


def identify(model: SortformerDiarizer) -> ModelIdentity:
    """Read a model's identity: two values of each weight, from places that its name decides.

    A copy whose weights can no longer be compared carries that of its original, as `known_as`.
    """
    known = getattr(model, "known_as", None)
    if known is not None:
        return known
    values, shapes = [], hashlib.sha256()
    for name, tensor in model.named_parameters():
        shapes.update(f"{name}{tuple(tensor.shape)}".encode())
        flat = tensor.detach().reshape(-1)
        if len(flat):
            seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")
            places = [
                (seed + k * (len(flat) // _VALUES_PER_TENSOR + 1)) % len(flat) for k in range(_VALUES_PER_TENSOR)
            ]
            values.append(flat[places].float())
    weights = torch.cat(values).cpu() if values else torch.zeros(0)
    config: Any = model.config
    name = f"{type(model).__name__}-{config.max_num_of_spks}x{model.encoder.d_model}-{shapes.hexdigest()[:8]}"
    return ModelIdentity(name, weights, str(model.dtype).removeprefix("torch."))
