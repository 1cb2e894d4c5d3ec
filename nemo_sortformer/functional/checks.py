# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Checks of tensor shapes, shared by the pure functions. They read no values: a value check would wait for the GPU."""

from torch import Tensor


def check_same_shape(**tensors: Tensor) -> None:
    """Raise ``ValueError`` unless all tensors, each (batch, frames, slots), have the shape of the first."""
    (first, reference), *others = tensors.items()
    check_rank(3, **{first: reference})
    for name, tensor in others:
        if tensor.shape != reference.shape:
            raise ValueError(
                f"`{name}` must have the shape of `{first}`, {tuple(reference.shape)}, but has {tuple(tensor.shape)}. "
                "Both are (batch, frames, slots): cut or pad the longer one to the frames of the other."
            )


def check_rank(rank: int, **tensors: Tensor) -> None:
    """Raise ``ValueError`` unless each tensor has `rank` dimensions."""
    for name, tensor in tensors.items():
        if tensor.dim() != rank:
            raise ValueError(
                f"`{name}` must have {rank} dimensions, but has shape {tuple(tensor.shape)}. "
                "For one recording add the batch axis with `x.unsqueeze(0)`."
            )


def check_lengths(lengths: Tensor | None, num_recordings: int) -> None:
    """Raise ``ValueError`` unless `lengths` is None or holds one number per recording."""
    if lengths is not None and tuple(lengths.shape) != (num_recordings,):
        raise ValueError(
            f"`lengths` must have shape ({num_recordings},), one number of valid frames per recording, "
            f"but has {tuple(lengths.shape)}."
        )
