# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Seconds, samples, 10 ms hops and label frames: NeMo's rules for going from one to the other, and frame masks."""

from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def lengths_to_mask(lengths: Tensor, num_frames: int) -> Tensor:
    """Mark the valid frames of each recording.

    Args:
        lengths: valid frames per recording, shape (batch,).
        num_frames: frames of the padded batch.

    Returns:
        Shape (batch, num_frames), bool, True where the frame is valid.

    Example:
        >>> lengths_to_mask(torch.tensor([1, 3]), 3)
        tensor([[ True, False, False],
                [ True,  True,  True]])
    """
    return torch.arange(num_frames, device=lengths.device) < lengths[:, None]


@overload
def num_label_frames(num_samples: int, *, hop_samples: int = 160, subsampling: int = 8) -> int: ...
@overload
def num_label_frames(num_samples: Tensor, *, hop_samples: int = 160, subsampling: int = 8) -> Tensor: ...
def num_label_frames(num_samples: int | Tensor, *, hop_samples: int = 160, subsampling: int = 8) -> int | Tensor:
    """Count the label frames of a recording: its hops rounded up, then the groups of `subsampling` hops rounded up.

    Args:
        num_samples: samples of the recording, a whole number or an integer tensor of any shape.
        hop_samples: samples from one feature frame to the next (160 = 10 ms at 16 kHz).
        subsampling: feature frames per label frame, the encoder's reduction in time.

    Returns:
        Label frames, of the kind that was given.

    Source: ``get_hidden_length_from_sample_length`` of NeMo, whose model gives as many frames.

    Example:
        >>> num_label_frames(48_000)  # 3 s: 300 hops
        38
    """
    num_hops = -(-num_samples // hop_samples)
    return -(-num_hops // subsampling)


@overload
def seconds_to_hops(seconds: float, hops_per_second: int = 100) -> int: ...
@overload
def seconds_to_hops(seconds: NDArray[np.float64], hops_per_second: int = 100) -> NDArray[np.int64]: ...
def seconds_to_hops(seconds: float | NDArray[np.float64], hops_per_second: int = 100) -> int | NDArray[np.int64]:
    """Go from a time to the hop that it falls in, in the way of NeMo: the product is cut off, not rounded.

    The cut makes a time that float64 cannot hold fall one hop early: 0.29 s is hop 28, 1.15 s is hop 114. We keep
    that, so that our targets are NeMo's targets.

    Args:
        seconds: one time, or an array of them.
        hops_per_second: hops per second, 100 for 10 ms.

    Returns:
        The hop, a whole number or an int64 array.
    """
    if isinstance(seconds, np.ndarray):
        return (seconds.astype(np.float64) * hops_per_second).astype(np.int64)
    return int(seconds * hops_per_second)


def label_windows(num_frames: int, num_hops: int, subsampling: int = 8) -> NDArray[np.int64]:
    """First and past-the-end hop of the window that each label frame is the mean of.

    The window of label i is the hops [8i - 5, 8i + 4) at a subsampling of 8, so a label is centred about 5 ms before
    80i ms; the first window starts at hop 0, the last one runs to the end of the recording.

    Args:
        num_frames: label frames, from `num_label_frames`.
        num_hops: hops of the recording.
        subsampling: hops per label frame, 1 or more.

    Returns:
        Shape (2, num_frames). A window that lies past the last hop is empty: both its numbers are `num_hops`.

    Raises:
        ValueError: `subsampling` is below 1.

    Example:
        >>> label_windows(3, 24)
        array([[ 0,  3, 11],
               [ 4, 12, 24]])

    Source: the window of ``get_soft_mask`` in NeMo.
    """
    if subsampling < 1:
        raise ValueError(f"`subsampling` must be 1 or more, but is {subsampling}.")
    first = np.arange(num_frames, dtype=np.int64) * subsampling
    start = np.maximum(first - 1 - subsampling // 2, 0)
    end = np.maximum(first + subsampling // 2, start + 1)
    end[-1:] = num_hops
    windows: NDArray[np.int64] = np.minimum(np.stack([start, end]), num_hops)
    return windows
