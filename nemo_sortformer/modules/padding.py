# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What the state encoders have in common about padding: masks without NaN, cleared frames."""

import torch
from torch import Tensor


def checked_mask(states: Tensor, mask: Tensor | None) -> Tensor | None:
    """The padding mask as booleans, or none where it is known that nothing is padded.

    Args:
        states: shape (batch, frames, width).
        mask: shape (batch, frames), bool or 0/1 of any type, true = valid; none = all valid.

    Returns:
        A bool tensor (batch, frames), or none. Whether all is valid is looked up on the CPU alone: on an accelerator
        the answer would hold up the host at every step, and under a compiler it would split the graph.

    Raises:
        ValueError: `encoder_mask` has not the batch and frames of `encoder_states`.
    """
    if mask is None:
        return None
    if mask.shape != states.shape[:2]:
        raise ValueError(
            f"`encoder_mask` must have the shape (batch, frames) of `encoder_states`, {tuple(states.shape[:2])}, but "
            f"has {tuple(mask.shape)}. Make it with `lengths_to_mask(lengths, encoder_states.shape[1])`."
        )
    mask = mask.to(device=states.device, dtype=torch.bool)
    if mask.device.type == "cpu" and not torch.compiler.is_compiling() and bool(mask.all()):
        return None
    return mask


def clear_padding(states: Tensor, mask: Tensor | None) -> Tensor:
    """Zero the padded frames of (batch, frames, width), whatever they held: a NaN there would spread by 0 x NaN."""
    return states if mask is None else states.masked_fill(~mask.unsqueeze(-1), 0.0)


def key_mask(mask: Tensor | None) -> Tensor | None:
    """(batch, frames) to a mask of keys (batch, 1, 1, frames) for `scaled_dot_product_attention`.

    A recording without one valid frame looks at all its (cleared) frames, as a row of softmax without any key is NaN.
    """
    return None if mask is None else (mask | ~mask.any(dim=1, keepdim=True))[:, None, None, :]
