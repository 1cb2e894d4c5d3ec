# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The gain of a recording, set by the recording alone."""

from __future__ import annotations

import torch
from torch import Tensor

from nemo_sortformer.functional.frames import lengths_to_mask

EPSILON = 1e-3


def set_level(audio: Tensor, lengths: Tensor, level: str) -> Tensor:
    """Bring each recording to a common level, whatever stands beside it in the batch, and silence its padding.

    Args:
        audio: shape (batch, samples).
        lengths: valid samples per recording, shape (batch,).
        level: ``peak`` divides by the maximum plus 1e-3, as NeMo does with one recording (the signed maximum; one that
            is never positive counts as 0, where NeMo would turn the signal over); ``rms`` divides by the root mean
            square plus 1e-3; ``none`` leaves the recording as it is.

    Returns:
        Shape and dtype of `audio`; exactly zero past each length.
    """
    audio = audio.masked_fill(~lengths_to_mask(lengths, audio.shape[1]), 0.0)
    if level == "none" or audio.shape[1] == 0:
        return audio
    if level == "peak":
        size = audio.amax(dim=1).clamp(min=0)  # where there is padding it is at least 0 in any case
    else:
        energy = audio.to(torch.promote_types(audio.dtype, torch.float32)).square().sum(dim=1)
        size = (energy / lengths.clamp(min=1)).sqrt().to(audio.dtype)
    return audio * (1 / (size + EPSILON))[:, None]
