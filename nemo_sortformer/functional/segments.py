# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Speech probabilities to segments: NeMo's thresholds, pads and shortest durations, without a loop over frames."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SAME_TIME = 1e-6  # seconds; times closer than this are equal, so that 0.24 - 0.08 is 0.16 wherever it stands
_TICK_SECONDS = 0.01  # NeMo's step of time, which shows only where `offset` is above `onset`


def active_segments(
    probs: Tensor | NDArray[np.float32],
    *,
    frame_seconds: float,
    onset: float = 0.5,
    offset: float = 0.5,
    pad_onset: float = 0.0,
    pad_offset: float = 0.0,
    min_duration_on: float = 0.0,
    min_duration_off: float = 0.0,
    max_seconds: float | None = None,
) -> list[NDArray[np.float64]]:
    """Turn the speech probabilities of one recording into segments, for each slot.

    In this order, which is NeMo's: speech starts where the probability rises above `onset` and ends where it falls
    below `offset`; segments grow by the pads, start no earlier than 0, and those that now touch become one; segments
    shorter than `min_duration_on` are dropped; pauses shorter than `min_duration_off` are filled.

    Where `offset` is above `onset`, as in some published settings, a probability between the two switches speech on
    and off every 10 ms, as in NeMo, and the pads and `min_duration_off` decide what is left of it.

    Args:
        probs: speech probabilities, shape (frames, slots).
        frame_seconds: seconds per frame.
        onset: speech starts above this probability.
        offset: speech ends below this probability.
        pad_onset: seconds added before each segment.
        pad_offset: seconds added after each segment.
        min_duration_on: seconds of the shortest segment that is kept.
        min_duration_off: seconds of the shortest pause that is kept.
        max_seconds: end of the recording, to which segments are cut; None does not cut.

    Returns:
        One float64 array per slot, shape (segments, 2): start and end in seconds, sorted, apart from each other.

    Raises:
        ValueError: `probs` is not (frames, slots) or has a NaN in it, or a duration is out of range.

    Source: ``ts_vad_post_processing`` of NeMo, but the last segment ends with its last frame, not 10 ms before.
    """
    table = _as_array(probs)
    if not frame_seconds > 0:
        raise ValueError(f"`frame_seconds` must be above 0, but is {frame_seconds}.")
    if min_duration_on < 0 or min_duration_off < 0:
        raise ValueError(
            "`min_duration_on` and `min_duration_off` must be 0 or more, "
            f"but are {min_duration_on} and {min_duration_off}."
        )
    slot, start, end = speech_stretches(table, frame_seconds, onset, offset)
    slot, start, end = join_stretches(
        slot,
        start,
        end,
        pad_onset=pad_onset,
        pad_offset=pad_offset,
        min_duration_on=min_duration_on,
        min_duration_off=min_duration_off,
        max_seconds=max_seconds,
    )
    bounds = np.searchsorted(slot, np.arange(1, table.shape[1]))
    return np.split(np.column_stack((start, end)), bounds) if table.shape[1] else []


def join_stretches(
    slot: NDArray[np.int64],
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    *,
    pad_onset: float = 0.0,
    pad_offset: float = 0.0,
    min_duration_on: float = 0.0,
    min_duration_off: float = 0.0,
    max_seconds: float | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Pad stretches of speech, join those that touch, drop short ones, fill short pauses; see `active_segments`.

    Args:
        slot: slot of each stretch, rising.
        start: seconds, rising within a slot.
        end: seconds, rising within a slot.
        pad_onset: and the other options, as in `active_segments`.
        pad_offset: seconds added after each.
        min_duration_on: seconds of the shortest segment that is kept.
        min_duration_off: seconds of the shortest pause that is kept.
        max_seconds: end of the recording.

    Returns:
        Slot, start and end of the segments, in the same order.
    """
    start = np.maximum(start - pad_onset, 0.0)
    end = end + pad_offset
    if max_seconds is not None:
        end = np.minimum(end, max_seconds)
    kept = end > start + SAME_TIME  # negative pads, or a start past the end of the recording
    slot, start, end = _merge(slot[kept], start[kept], end[kept], SAME_TIME)

    kept = end - start >= min_duration_on - SAME_TIME
    slot, start, end = slot[kept], start[kept], end[kept]
    if min_duration_off > 0:
        slot, start, end = _merge(slot, start, end, min_duration_off - SAME_TIME)
    return slot, start, end


def _as_array(probs: Tensor | NDArray[np.float32]) -> NDArray[np.float32]:
    if isinstance(probs, Tensor):
        probs = probs.detach().to("cpu", torch.float32).numpy()
    if probs.ndim != 2:
        raise ValueError(f"`probs` must be (frames, slots) of one recording, but has shape {probs.shape}.")
    if np.isnan(probs).any():
        raise ValueError(
            "`probs` must be numbers, but has NaN in it: the model's weights or the audio it was given are not finite."
        )
    return probs


def speech_stretches(
    table: NDArray[np.float32], frame_seconds: float, onset: float, offset: float
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Give slot, start and end of each stretch of speech, by slot and then by time.

    The slots stand one after the other in one flat row, each followed by a frame of silence: then a stretch never
    runs into the next slot, and starts and ends alternate.
    """
    flips = offset > onset
    if flips:
        ticks = max(1, round(frame_seconds / _TICK_SECONDS))
        table, frame_seconds = np.repeat(table, ticks, axis=0), frame_seconds / ticks
    num_frames, num_slots = table.shape
    on = np.zeros((num_slots, num_frames + 1), dtype=bool)
    off = np.ones((num_slots, num_frames + 1), dtype=bool)
    np.greater(table.T, onset, out=on[:, :-1])
    np.less(table.T, offset, out=off[:, :-1])

    if flips:
        place = np.arange(num_slots * num_frames + num_slots)
        speech = _switched(on.ravel(), off.ravel())
    else:  # only the frames that decide: between the thresholds nothing changes
        place = np.flatnonzero(on | off)
        speech = on.ravel()[place]
    changes = place[np.diff(speech, prepend=False)]
    first, last = changes[0::2], changes[1::2]
    slot = first // (num_frames + 1)
    before = slot * (num_frames + 1)
    return slot, (first - before) * frame_seconds, (last - before) * frame_seconds


def _switched(on: NDArray[np.bool_], off: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Speech at each tick where a tick that is both on and off switches: the last clear tick, and the parity since."""
    flip = on & off
    clear = np.where(on ^ off, np.arange(1, len(on) + 1), 0)
    last_clear = np.maximum.accumulate(clear)
    num_flips = np.concatenate(([0], np.cumsum(flip)))
    since = num_flips[1:] - num_flips[last_clear]
    speech: NDArray[np.bool_] = np.concatenate(([False], on))[last_clear] ^ (since % 2 == 1)
    return speech


def _merge(
    slot: NDArray[np.int64], start: NDArray[np.float64], end: NDArray[np.float64], max_gap: float
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Join neighbours of one slot whose gap is below `max_gap` seconds; ends must rise within a slot."""
    apart = (start[1:] - end[:-1] >= max_gap) | (slot[1:] != slot[:-1])
    ones = np.ones(min(1, len(slot)), dtype=bool)
    first, last = np.concatenate((ones, apart)), np.concatenate((apart, ones))
    return slot[first], start[first], end[last]
