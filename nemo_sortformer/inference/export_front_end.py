# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The mel front end as convolutions, which export everywhere: no Fourier transform, no complex numbers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nemo_sortformer.functional.frames import lengths_to_mask
from nemo_sortformer.models.diarizer.level import EPSILON
from nemo_sortformer.models.diarizer.streaming_mel import MelStatistics, StreamingMel


class ExportedMel(nn.Module):
    """NeMo's mel features by two convolutions: one with the windowed waves of the transform, one with the mel bands.

    Args:
        mel: the front end whose numbers these are; its normalization is left to the caller.
    """

    def __init__(self, mel: StreamingMel) -> None:
        super().__init__()
        featurizer: Any = mel.front_end.featurizer
        self.hop_samples, self.size = mel.hop_samples, int(featurizer.n_fft)
        self.preemphasis = float(featurizer.preemph or 0.0)
        self.power = mel.level_power
        self.guard = float(featurizer.log_zero_guard_value_fn(torch.zeros(1)))
        self.clamps = featurizer.log_zero_guard_type == "clamp"
        self.register_buffer("waves", _waves(featurizer.window, int(featurizer.win_length), self.size))
        self.register_buffer("bands", featurizer.fb[0, :, :, None].clone())

    def forward(self, audio: Tensor, num_samples: Tensor) -> Tensor:
        """Samples (batch, samples) and how many are valid (batch,), to (batch, bands, samples // hop + 1)."""
        valid = lengths_to_mask(num_samples, audio.shape[1])
        if self.preemphasis:
            before = F.pad(audio, (1, 0))[:, :-1]
            audio = audio - self.preemphasis * before
        audio = torch.where(valid, audio, 0.0)
        half = self.size // 2
        parts = F.conv1d(F.pad(audio, (half, half))[:, None], self.waves, stride=self.hop_samples)
        real, imaginary = parts.chunk(2, dim=1)
        power = real * real + imaginary * imaginary
        if self.power != 2.0:
            power = power ** (self.power / 2)
        bands = F.conv1d(power, self.bands)
        return (bands.clamp(min=self.guard) if self.clamps else bands + self.guard).log()


def _waves(window: Tensor | None, length: int, size: int) -> Tensor:
    """Cosines and negative sines of each frequency under the window, shape (2 (size / 2 + 1), 1, size)."""
    shape = torch.ones(length) if window is None else window.cpu()
    left = (size - length) // 2
    shape = F.pad(shape.double(), (left, size - length - left))
    turns = torch.outer(torch.arange(size // 2 + 1), torch.arange(size)) % size  # whole numbers: no rounding of angles
    angles = turns.double() * (2 * math.pi / size)
    return (torch.cat([angles.cos(), -angles.sin()]) * shape).float()[:, None]


class RecordingFrontEnd(nn.Module):
    """Level, mel features and normalization of whole recordings, as the model has them.

    Args:
        mel: the model's front end.
        level: the model's `level`.
    """

    def __init__(self, mel: StreamingMel, level: str) -> None:
        super().__init__()
        self.mel, self.level, self.normalizes = ExportedMel(mel), level, mel.normalization is not None

    def forward(self, audio: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor]:
        """Samples (batch, samples), valid ones (batch,), to mel (batch, bands, samples // hop) and its lengths."""
        audio = torch.where(lengths_to_mask(num_samples, audio.shape[1]), audio, 0.0)
        if self.level == "peak":
            audio = audio / (audio.amax(dim=1, keepdim=True).clamp(min=0) + EPSILON)
        elif self.level == "rms":
            energy = audio.square().sum(dim=1) / num_samples.clamp(min=1)
            audio = audio / (energy.sqrt() + EPSILON)[:, None]
        mel = self.mel(audio, num_samples)[:, :, :-1]
        lengths = torch.div(num_samples, self.mel.hop_samples, rounding_mode="floor").clamp(min=1)
        valid = lengths_to_mask(lengths, mel.shape[2])
        if self.normalizes:
            none = torch.zeros_like(mel[:, :, 0])
            mel = MelStatistics(none[:, 0], none, none).add(mel, valid).normalize(mel)
        return torch.where(valid[:, None], mel, 0.0), lengths


class StreamFrontEnd(nn.Module):
    """Level, mel features and normalization of one step of each stream, by all that each has heard so far.

    A piece begins `history_hops` hops before the step's first frame, and ends `samples_ahead` samples after the middle
    of its last hop; what is not there yet, or no more, is zero.

    Args:
        mel: the model's front end.
        level: the model's `level`.
        left_frames: context before the chunk.
        ahead_frames: the chunk and the context after it.
        subsampling: hops per frame.
    """

    def __init__(
        self, mel: StreamingMel, level: str, *, left_frames: int, ahead_frames: int, subsampling: int
    ) -> None:
        super().__init__()
        self.mel, self.level, self.normalizes = ExportedMel(mel), level, mel.normalization is not None
        self.hop, self.factor, self.left_frames = mel.hop_samples, subsampling, left_frames
        self.bands, self.margin_hops, self.level_power = mel.bands, mel.margin_hops, mel.level_power
        self.history_hops = left_frames * subsampling + mel.margin_hops
        self.hops_ahead = ahead_frames * subsampling
        self.piece_samples = (self.history_hops + self.hops_ahead - 1) * self.hop + mel.samples_ahead

    def empty(self, batch_size: int) -> dict[str, Tensor]:
        """What is remembered of streams of which nothing has been heard, by name; nothing for many models."""
        zeros = torch.zeros(batch_size)
        state: dict[str, Tensor] = {}
        if self.level != "none":
            state |= {"level": zeros, "level_samples": zeros.long()}
        if self.normalizes:
            bands = torch.zeros(batch_size, self.bands)
            state |= {"mel_hops": zeros.clone(), "mel_mean": bands, "mel_spread": bands.clone()}
        return state

    def forward(
        self, audio: Tensor, num_samples: Tensor, frames: Tensor, state: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """One step.

        Args:
            audio: pieces, shape (batch, piece_samples).
            num_samples: samples from the piece's beginning to the stream's end, the history included; where that is
                not near, as many as there are or more, shape (batch,).
            frames: frames of each stream so far, shape (batch,).
            state: as of :meth:`empty`.

        Returns:
            Mel features of the context, the chunk and its right context, zero past the lengths; the lengths in hops;
            the new state.
        """
        new = dict(state)
        before = self.history_hops * self.hop
        num_samples = num_samples.clamp(max=self.piece_samples)
        place = torch.arange(audio.shape[1])[None]
        there = lengths_to_mask(num_samples, audio.shape[1])
        audio = torch.where(there, audio, 0.0)
        start = frames * (self.factor * self.hop)  # of the chunk, in samples of the stream
        heard = (num_samples - before).clamp(min=0)
        whole = torch.div(heard, self.hop, rounding_mode="floor")
        first = (frames == 0) & (heard > 0)
        hops = torch.maximum(whole, first.long()).clamp(max=self.hops_ahead)
        hops = torch.where(num_samples >= self.piece_samples, self.hops_ahead, hops)
        gain = None
        if self.level != "none":
            fresh = there & (place + (start - before)[:, None] >= state["level_samples"][:, None])
            total = torch.where(hops > 0, start + heard, state["level_samples"])
            total = torch.maximum(total, state["level_samples"])
            values = torch.where(fresh & (hops > 0)[:, None], audio, 0.0)
            if self.level == "peak":
                new["level"] = size = torch.maximum(state["level"], values.amax(dim=1))
            else:
                new["level"] = state["level"] + values.square().sum(dim=1)
                size = (new["level"] / total.clamp(min=1)).sqrt()
            new["level_samples"] = total
            gain = 1 / (size + EPSILON)
            audio = audio * gain[:, None]
        left = torch.minimum(frames, torch.full_like(frames, self.left_frames))
        skipped = (self.left_frames - left) * self.factor
        lengths = torch.where(hops > 0, hops + left * self.factor, 0)
        silence = (skipped + lengths + self.margin_hops) * self.hop  # so much is heard, also past the stream's end
        mel = self.mel(audio, torch.maximum(num_samples, silence))
        size_hops = self.left_frames * self.factor + self.hops_ahead
        index = torch.arange(size_hops)[None] + (skipped + self.margin_hops)[:, None]
        mel = mel.gather(2, index.clamp(max=mel.shape[2] - 1)[:, None].expand(-1, self.bands, -1))
        valid = lengths_to_mask(lengths, size_hops)
        if self.normalizes:
            if gain is not None:  # as if the gain had always been that of now
                mel = mel - self.level_power * gain.log()[:, None, None]
            old = MelStatistics(state["mel_hops"], state["mel_mean"], state["mel_spread"])
            hop_number = torch.arange(size_hops)[None] + ((frames - left) * self.factor)[:, None]
            statistics = old.add(mel, valid & (hop_number >= state["mel_hops"].long()[:, None]))
            new["mel_hops"], new["mel_mean"], new["mel_spread"] = statistics
            mel = statistics.normalize(mel)
        return torch.where(valid[:, None], mel, 0.0), lengths, new
