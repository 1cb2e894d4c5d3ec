# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Speaker kernels: one vector per speaker slot, which marks the frames at which the slot speaks."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def sinusoidal_kernel(num_slots: int, width: int) -> Tensor:
    """One sine per slot over the units of a state: slot k has k + 1 periods, so that no two slots look alike.

    Args:
        num_slots: number of speaker slots S, less than half of `width`, beyond which two sines are the same.
        width: number of units M of a state.

    Returns:
        gamma_k(m) = sin(2 pi (k + 1) m / M), float32, shape (num_slots, width); the rows are orthogonal.

    Raises:
        ValueError: a number is out of range.

    Source: speaker kernels of Sortformer, Park et al. 2024 (arXiv:2409.06656); k counts from one there.

    Example:
        >>> sinusoidal_kernel(1, 4).round(decimals=3).abs()
        tensor([[0., 1., 0., 1.]])
    """
    if num_slots < 1 or width <= 2 * num_slots:
        raise ValueError(
            f"`num_slots` must be at least 1 and less than half of `width`, but they are {num_slots} and {width}."
        )
    slots = torch.arange(1, num_slots + 1, dtype=torch.float64)
    units = torch.arange(width, dtype=torch.float64)
    return torch.sin(2 * math.pi * slots[:, None] * units / width).float()


def add_speaker_kernel(states: Tensor, labels: Tensor, kernel: Tensor, *, norm: float = 1.0) -> Tensor:
    """Bring every state to one length, and add the kernels of those who speak.

    Args:
        states: shape (batch, frames, width).
        labels: speech activity in [0, 1], shape (batch, frames, slots).
        kernel: shape (slots, width).
        norm: length of a state, above 0.

    Returns:
        Shape and dtype of `states`. A state of zeros, as in the padding, stays zero where nobody speaks.
    """
    unit = F.normalize(states.float(), dim=-1)
    return (norm * unit + labels.float() @ kernel.float()).to(states.dtype)


def target_and_others(labels: Tensor) -> Tensor:
    """For each slot in turn: how much it speaks, and how much anybody else does.

    Args:
        labels: speech activity in [0, 1], shape (batch, frames, slots).

    Returns:
        Shape (batch, slots, frames, 2): the slot's own activity, and the largest among the other slots.

    Example:
        >>> target_and_others(torch.tensor([[[1.0, 0.5, 0.0]]]))[0, :, 0].tolist()
        [[1.0, 0.5], [0.5, 1.0], [0.0, 1.0]]
    """
    own_BST = labels.transpose(1, 2)
    if labels.shape[2] == 1:
        return torch.stack([own_BST, torch.zeros_like(own_BST)], dim=-1)
    best_BT2, place_BT2 = labels.topk(2, dim=2)
    slots = torch.arange(labels.shape[2], device=labels.device)[:, None]
    is_best_BST = slots == place_BT2[:, None, :, 0]
    others_BST = torch.where(is_best_BST, best_BT2[:, None, :, 1], best_BT2[:, None, :, 0])
    return torch.stack([own_BST, others_BST], dim=-1)
