# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Features of the next chunk of each of some streams, out of the audio that the streams keep."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nemo_sortformer.config.streaming import StreamingConfig
from nemo_sortformer.inference.stream_state import StreamState
from nemo_sortformer.models.diarizer.level import EPSILON
from nemo_sortformer.models.diarizer.streaming_mel import MelStatistics, StreamingMel, streaming_mel

if TYPE_CHECKING:
    from nemo_sortformer.inference.long_audio import LongAudio
    from nemo_sortformer.models.diarizer.model import SortformerDiarizer

_NO_MORE = 2**62
"""More samples or hops than any stream has: all that will come are counted already."""
_BLOCK_HOPS = 6000
"""Mel features made at once for the statistics of a recording: a minute."""


class Plan(NamedTuple):
    """The hops of one step of a stream."""

    left_frames: int
    """Context before the chunk."""
    num_frames: int
    """Of the chunk."""
    first_hop: int
    """Of the context before it."""
    last_hop: int
    """One past the context after it."""
    num_samples: int
    """Samples of the stream that the step may use: the same however the audio was cut."""


def history_hops(config: StreamingConfig, mel: StreamingMel, model: SortformerDiarizer) -> int:
    """Hops before a chunk from which its audio is kept; silence stands for those before the stream."""
    return config.chunk_left_context * model.subsampling + mel.margin_hops


def plan_step(state: StreamState, mel: StreamingMel, model: SortformerDiarizer) -> Plan | None:
    """The next step of a stream, or None where there is not enough audio for it."""
    factor, hop = model.subsampling, mel.hop_samples
    first = state.num_frames * factor
    end = first + state.config.chunk_len * factor
    last = end + state.config.chunk_right_context * factor
    enough = (last - 1) * hop + mel.samples_ahead
    if state.num_samples < enough:
        if not state.finished:
            return None
        total = max(state.num_samples // hop, min(state.num_samples, 1))  # less than one hop still is a frame
        if first >= total:
            return None
        end, last = min(end, total), min(last, total)
    left = min(state.config.chunk_left_context, state.num_frames)
    return Plan(left, -(-(end - first) // factor), first - left * factor, last, min(state.num_samples, enough))


def chunk_features(
    model: SortformerDiarizer, mel: StreamingMel, states: list[StreamState], plans: list[Plan]
) -> tuple[Tensor, Tensor, list[StreamState]]:
    """The features of one step of each stream, with its context.

    Returns:
        Features (batch, bands, hops), normalized and zero past the valid hops; the valid hops (batch,); and the
        streams with these hops in their level and statistics.
    """
    config, hop, factor = states[0].config, mel.hop_samples, model.subsampling
    history = history_hops(config, mel, model)
    states, pieces, gains = _leveled(model, states, plans, history)
    num_hops = torch.tensor([plan.last_hop - plan.first_hop for plan in plans])
    skipped = torch.tensor([(config.chunk_left_context - plan.left_frames) * factor for plan in plans])
    shortest = ((skipped + num_hops + mel.margin_hops) * hop).tolist()
    lengths = [max(len(piece), least) for piece, least in zip(pieces, shortest, strict=True)]
    audio = np.zeros((len(pieces), max(lengths)), dtype=np.float32)
    for row, piece, gain in zip(audio, pieces, gains, strict=True):
        np.multiply(piece, gain, out=row[: len(piece)])
    device = model.device
    features, valid = mel(
        torch.from_numpy(audio).to(device),
        torch.tensor(lengths, device=device),
        num_hops.to(device),
        skipped.to(device),
        size=int(num_hops.max()),
    )
    if mel.normalization is not None:
        features, states = _normalized(features, valid, gains, states, plans, mel)
    return features, num_hops.to(device), states


def know_beforehand(state: StreamState, samples: np.ndarray | LongAudio, model: SortformerDiarizer) -> StreamState:
    """A stream that has not begun, with the level and the normalization of the whole recording that it will be.

    Args:
        state: the stream.
        samples: the recording, at the model's rate, shape (samples,), or what can be sliced like it.
        model: whose stream it is.
    """
    gain, hop = 1.0, model.hop_samples
    if model.config.level != "none":
        step = _BLOCK_HOPS * hop
        blocks = (samples[start : start + step] for start in range(0, len(samples), step))
        if model.config.level == "peak":
            level = max((float(block.max()) for block in blocks), default=0.0)
            level = size = max(level, 0.0)
        else:
            energy = sum(float(np.square(block, dtype=np.float64).sum()) for block in blocks) / max(len(samples), 1)
            level, size = energy * _NO_MORE, energy**0.5
        state = replace(state, level=level, level_samples=_NO_MORE)
        gain = 1 / (size + EPSILON)
    mel = streaming_mel(model)
    if mel.normalization is None or state.statistics is None:
        return state
    statistics, total = state.statistics, max(len(samples) // hop, 1)
    for first in range(0, total, _BLOCK_HOPS):
        last = min(first + _BLOCK_HOPS, total)
        start, end = (first - mel.margin_hops) * hop, (last - 1) * hop + mel.samples_ahead
        piece = gain * np.pad(samples[max(start, 0) : end], (max(-start, 0), 0))
        audio = torch.from_numpy(np.pad(piece, (0, max((last - first + mel.margin_hops) * hop - len(piece), 0))))
        counts = (torch.tensor([n], device=model.device) for n in (len(audio), last - first, 0))
        features, valid = mel(audio[None].to(model.device), *counts, size=last - first)
        statistics = statistics.add(features - mel.level_power * math.log(gain), valid)
    return replace(state, statistics=statistics, num_hops=_NO_MORE)


def _leveled(
    model: SortformerDiarizer, states: list[StreamState], plans: list[Plan], history: int
) -> tuple[list[StreamState], list[np.ndarray], list[float]]:
    """The audio of each step, and the gain that brings the stream so far to the model's level."""
    hop, factor, kind = model.hop_samples, model.subsampling, model.config.level
    changed, pieces, gains = [], [], []
    for state, plan in zip(states, plans, strict=True):
        base = (state.num_frames * factor - history) * hop
        piece = state.audio[: plan.num_samples - base]
        pieces.append(piece)
        gain = 1.0
        if kind != "none":
            new = piece[max(state.level_samples - base, 0) :]
            counted = max(state.level_samples, plan.num_samples)
            if kind == "peak":
                level = size = max(state.level, float(new.max(initial=0.0)))
            else:
                level = state.level + float(np.square(new, dtype=np.float64).sum())
                size = (level / max(counted, 1)) ** 0.5
            state = replace(state, level=level, level_samples=counted)
            gain = 1 / (size + EPSILON)
        changed.append(state)
        gains.append(gain)
    return changed, pieces, gains


def _normalized(
    features: torch.Tensor,
    valid: torch.Tensor,
    gains: list[float],
    states: list[StreamState],
    plans: list[Plan],
    mel: StreamingMel,
) -> tuple[torch.Tensor, list[StreamState]]:
    """Normalize each band by all hops of the stream so far, as if its gain had always been that of now."""
    device = features.device
    shift = mel.level_power * torch.tensor(gains, device=device, dtype=torch.float64).log().float()
    features = features - shift[:, None, None]
    place = torch.arange(features.shape[2], device=device)
    seen = torch.tensor([state.num_hops - plan.first_hop for state, plan in zip(states, plans, strict=True)])
    old = MelStatistics(*(torch.cat(parts).to(device) for parts in zip(*(s.statistics for s in states), strict=True)))
    new = old.add(features, valid & (place >= seen.to(device)[:, None]))
    features = torch.where(valid[:, None], new.normalize(features), 0)
    rows = [MelStatistics(*(tensor[i : i + 1].clone() for tensor in new)) for i in range(len(states))]
    return features, [
        replace(state, statistics=row, num_hops=max(state.num_hops, plan.last_hop))
        for state, row, plan in zip(states, rows, plans, strict=True)
    ]
