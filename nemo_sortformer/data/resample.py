# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Resampling of audio that arrives piece by piece, with a state that can be saved; the pieces do not show."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.signal import firwin, upfirdn

_HALF_LENGTH = 32
"""Samples of the slower rate on each side that a result depends on; at 16 kHz 2 ms."""
_STOP_BAND = 10.0
"""Shape of the Kaiser window: 100 dB of damping."""


class ResamplerState(NamedTuple):
    """What is needed of the samples so far: a value."""

    num_in: int
    """Samples that came in."""
    num_out: int
    """Samples that went out."""
    tail: np.ndarray
    """The last ones that came in, shape (samples,), float32."""


def start_resampling() -> ResamplerState:
    """Before the first sample."""
    return ResamplerState(0, 0, np.zeros(0, dtype=np.float32))


def resample_piece(
    state: ResamplerState, samples: np.ndarray, *, rate_in: int, rate_out: int, last: bool = False
) -> tuple[np.ndarray, ResamplerState]:
    """Resample the next samples with a linear-phase filter.

    Args:
        state: what is kept of those before; not changed.
        samples: shape (samples,), float32; may be empty.
        rate_in: their rate in Hz.
        rate_out: rate of the result in Hz.
        last: nothing comes after these.

    Returns:
        The samples that can be given by now, and the new state. In all there are `ceil(n * rate_out / rate_in)`.
    """
    if rate_in == rate_out:
        return samples, state
    divisor = math.gcd(rate_in, rate_out)
    up, down = rate_out // divisor, rate_in // divisor
    window, reach = _filter(up, down)
    audio = np.concatenate([state.tail, samples])
    num_in = state.num_in + len(samples)
    first_in = num_in - len(audio)
    if last:
        num_out = -(-num_in * up // down)
        audio = np.concatenate([audio, np.zeros(reach // up + 1, dtype=np.float32)])
    else:  # up to the last sample that the filter reaches no further than what there is
        num_out = max(((num_in - 1) * up - reach) // down + 1, state.num_out)
    count = num_out - state.num_out
    result = np.zeros(0, dtype=np.float32)
    if count > 0:
        place = state.num_out * down + reach - first_in * up  # of the first result, in samples of rate `up`
        ahead = -place % down
        found = upfirdn(np.concatenate([np.zeros(ahead), window]), audio, up, down)
        first = (place + ahead) // down
        result = found[first : first + count].astype(np.float32)
        result = np.pad(result, (0, count - len(result)))
    needed_from = max(-(-(num_out * down - reach) // up), first_in)
    return result, ResamplerState(num_in, num_out, audio[needed_from - first_in : num_in - first_in])


@lru_cache(maxsize=16)
def _filter(up: int, down: int) -> tuple[np.ndarray, int]:
    """The filter at `up` times the incoming rate, and how far it reaches to each side."""
    reach = _HALF_LENGTH * max(up, down)
    return up * firwin(2 * reach + 1, 1 / max(up, down), window=("kaiser", _STOP_BAND)), reach
