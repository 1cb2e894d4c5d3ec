# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Sound of several turns in one recording, and long frames of it described by statistics of mel bands."""

from __future__ import annotations

from collections.abc import Sequence

import librosa
import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray

from nemo_sortformer.data.tasks.sequences import Turn

SAMPLE_RATE = 16_000
_HOP = 160
_WINDOW = 400
_NUM_FFT = 512
_NUM_BANDS = 40
_NUM_CEPSTRA = 20
_NUM_RATES = 8
_FLOOR = 1e-7
_NOISE = 1e-3
_EDGE_SAMPLES = 160
_LEVEL = 0.1


def excerpt(clips: Sequence[NDArray[np.float32]], num_samples: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Cut `num_samples` at a random place out of the clips, or out of several where one is too short.

    Returns:
        Samples of root mean square 0.1 with faded ends.
    """
    parts: list[NDArray[np.float32]] = []
    missing = num_samples
    while missing > 0:
        clip = clips[int(rng.integers(len(clips)))]
        start = int(rng.integers(max(len(clip) - missing, 0) + 1))
        parts.append(clip[start : start + missing])
        missing -= len(parts[-1])
    x = np.concatenate(parts)
    fade = np.minimum(1, (np.arange(num_samples, dtype=np.float32) + 1) / _EDGE_SAMPLES)
    return x * fade * fade[::-1] * np.float32(_LEVEL / (np.sqrt(np.mean(x**2)) + 1e-6))


def mix_turns(
    pieces: Sequence[NDArray[np.float32]],
    turns: Sequence[Turn],
    num_frames: int,
    frame_seconds: float,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Add up the sounds of all turns over a soft noise, each up to 3 dB louder or softer.

    Args:
        pieces: the sound of each turn at 16 kHz, at most as long as its turn.
        turns: where they are.
        num_frames: length of the recording.
        frame_seconds: seconds per frame.
        rng: source of levels and noise.

    Returns:
        Shape (samples,).
    """
    per_frame = round(frame_seconds * SAMPLE_RATE)
    audio = _NOISE * rng.standard_normal(num_frames * per_frame).astype(np.float32)
    for piece, turn in zip(pieces, turns, strict=True):
        start = turn.start * per_frame
        audio[start : start + len(piece)] += piece * np.float32(10 ** (rng.uniform(-3, 3) / 20))
    return audio


def mel_bands(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """Log power in 40 mel bands every 10 ms, shape (samples // 160, 40)."""
    spectrum = torch.stft(
        torch.from_numpy(np.ascontiguousarray(audio)),
        _NUM_FFT,
        _HOP,
        _WINDOW,
        torch.hann_window(_WINDOW),
        center=True,
        return_complex=True,
    )
    power = spectrum.abs().square().numpy()[:, : len(audio) // _HOP]
    filters = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=_NUM_FFT, n_mels=_NUM_BANDS, fmin=50, fmax=7600)
    return np.log(filters @ power + _FLOOR).T


def spectral_frames(audio: NDArray[np.float32], frame_seconds: float) -> NDArray[np.float32]:
    """Describe long frames by what a mel spectrogram does inside them.

    Args:
        audio: samples at 16 kHz.
        frame_seconds: length of a frame, a whole number of 10 ms.

    Returns:
        Shape (frames, 84): mean, spread and mean step of 20 cepstra, and how strongly three wide bands swing at eight
        rates (the multiples of 1 / frame_seconds).
    """
    bands = mel_bands(audio)
    per_frame = round(frame_seconds * SAMPLE_RATE / _HOP)
    num_frames = len(bands) // per_frame
    cepstra = scipy.fft.dct(bands, axis=1, norm="ortho")[: num_frames * per_frame, :_NUM_CEPSTRA]
    steps = np.abs(np.diff(cepstra, axis=0, prepend=cepstra[:1])).reshape(num_frames, per_frame, -1)
    cepstra = cepstra.reshape(num_frames, per_frame, -1)
    wide = bands[: num_frames * per_frame].reshape(num_frames, per_frame, -1)
    wide = np.stack([part.mean(axis=2) for part in np.array_split(wide, 3, axis=2)], axis=2)
    swing = np.abs(np.fft.rfft(wide, axis=1))[:, 1 : _NUM_RATES + 1] / per_frame
    parts = [
        cepstra.mean(axis=1),
        cepstra.std(axis=1),
        steps.mean(axis=1),
        np.log(swing + 0.03).reshape(num_frames, -1),
    ]
    return np.concatenate(parts, axis=1).astype(np.float32)
