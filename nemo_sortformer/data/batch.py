# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What a data set gives (one item) and what a model takes (a batch of padded items)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["DiarizationBatch", "DiarizationItem", "collate"]


class DiarizationItem(NamedTuple):
    """One stretch of one recording with its labels."""

    audio: Tensor
    """float32 samples, shape (samples,)."""
    targets: Tensor
    """float32 speech activity in order of arrival, shape (frames, slots)."""
    recording: str = ""
    offset: float = 0.0
    """Where the stretch starts in the recording, in seconds."""


class DiarizationBatch(NamedTuple):
    """Zero-padded items, in the order of NeMo's tuple."""

    audio: Tensor
    """float32, shape (batch, samples)."""
    audio_lengths: Tensor
    """int64 samples per item, shape (batch,)."""
    targets: Tensor
    """float32, shape (batch, frames, slots)."""
    target_lengths: Tensor
    """int64 frames per item, shape (batch,)."""


def collate(items: Sequence[DiarizationItem]) -> DiarizationBatch:
    """Stack items of any lengths into one zero-padded batch.

    Raises:
        ValueError: there is no item, or the items differ in their number of slots.
    """
    if not items:
        raise ValueError("A batch needs one item or more, but there is none.")
    slots = {item.targets.shape[1] for item in items}
    if len(slots) > 1:
        raise ValueError(f"All items of a batch must have one number of slots, but have {sorted(slots)}.")
    audio_lengths = torch.tensor([len(item.audio) for item in items], dtype=torch.int64)
    target_lengths = torch.tensor([len(item.targets) for item in items], dtype=torch.int64)
    audio = torch.zeros(len(items), int(audio_lengths.max()), dtype=torch.float32)
    targets = torch.zeros(len(items), int(target_lengths.max()), slots.pop(), dtype=torch.float32)
    for index, item in enumerate(items):
        audio[index, : len(item.audio)] = item.audio
        targets[index, : len(item.targets)] = item.targets
    return DiarizationBatch(audio, audio_lengths, targets, target_lengths)
