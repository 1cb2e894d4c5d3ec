# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Subsampling by stacking, in which a recording has as many frames in a batch as by itself."""

import torch
from nemo.collections.asr.parts.submodules.subsampling import StackingSubsampling
from torch import Tensor, nn


class Stacking(StackingSubsampling):
    """NeMo's stacking of mel hops, but each recording's last frame counts, filled up with silence or not.

    NeMo adds what fills up the longest recording of the batch to the lengths of all, so that beside another a
    recording loses the frame that it has alone.
    """

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Hops (batch, hops, bands) to frames (batch, frames, width), and the valid frames of each recording."""
        frames, _ = super().forward(x, lengths)
        factor = self.subsampling_factor
        return frames, torch.div(lengths + factor - 1, factor, rounding_mode="floor")


def count_frames_alike(encoder: nn.Module) -> nn.Module:
    """Let an acoustic encoder that stacks hops count the frames of each recording by itself; others stay as they are.

    Args:
        encoder: any module; its parameters, buffers and their names do not change.

    Returns:
        The same module.
    """
    if type(getattr(encoder, "pre_encode", None)) is StackingSubsampling:
        encoder.pre_encode.__class__ = Stacking
    return encoder
