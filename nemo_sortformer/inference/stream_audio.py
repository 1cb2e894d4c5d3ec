# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Pieces of audio in whatever form they come, as float32 samples of one channel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nemo_sortformer.data.audio import AudioError, audio_info

_MOST_CHANNELS = 32
_BLOCK_SECONDS = 0.5


def piece_samples(piece: Any, *, left_over: bytes = b"") -> tuple[np.ndarray, bytes]:
    """The samples of one piece.

    Args:
        piece: samples as a NumPy array or tensor, shape (samples,) or (samples, channels), floats in [-1, 1] or
            integers of full scale; or `bytes` of 16-bit little-endian PCM in one channel, cut anywhere.
        left_over: the half sample that the bytes before this ended in.

    Returns:
        float32 samples, shape (samples,), and the half sample that this piece ends in.

    Raises:
        AudioError: the piece is of another kind or shape, or holds NaN or infinity.
    """
    if isinstance(piece, (bytes, bytearray, memoryview)):
        data = left_over + bytes(piece)
        whole = len(data) - len(data) % 2
        return np.frombuffer(data[:whole], dtype="<i2").astype(np.float32) / 32768, data[whole:]
    if left_over:
        raise AudioError("A stream of bytes must go on with bytes: half a sample is still open.")
    if hasattr(piece, "detach"):
        piece = piece.detach().cpu().float().numpy() if piece.is_floating_point() else piece.cpu().numpy()
    audio = np.asarray(piece)
    if audio.ndim == 2 and audio.shape[1] > _MOST_CHANNELS:
        raise AudioError(f"A piece must be (samples,) or (samples, channels), but is {audio.shape}. Transpose it.")
    if audio.ndim not in (1, 2):
        raise AudioError(f"A piece must be (samples,) or (samples, channels), but is {audio.shape}.")
    if audio.dtype == np.uint8:  # as in 8-bit WAV files
        audio = audio.astype(np.float32) / 128 - 1
    elif np.issubdtype(audio.dtype, np.integer):
        audio = audio.astype(np.float32) / float(np.iinfo(audio.dtype).max + 1)
    elif not np.issubdtype(audio.dtype, np.floating) and audio.size:
        raise AudioError(f"A piece must hold floats or integers, but its type is {audio.dtype}.")
    if audio.ndim == 2:
        audio = audio.mean(axis=1) if audio.shape[1] else np.zeros(0)
    audio = audio.astype(np.float32)
    if not np.isfinite(audio).all():
        raise AudioError(
            f"A piece of {len(audio)} samples holds {np.count_nonzero(~np.isfinite(audio))} that are NaN or infinite. "
            "The stream is as it was before: leave the piece out, or replace them."
        )
    return audio, b""


def file_pieces(path: str | Path, *, seconds: float = _BLOCK_SECONDS) -> tuple[Iterator[np.ndarray], int]:
    """An audio file piece by piece, at its own rate.

    Returns:
        An iterator over samples (samples,), and the rate in Hz.

    Raises:
        AudioError: the file is missing or is not audio.
    """
    import soundfile

    info = audio_info(path)

    def read() -> Iterator[np.ndarray]:
        with soundfile.SoundFile(path) as file:
            for block in file.blocks(max(round(seconds * info.sample_rate), 1), dtype="float32", always_2d=True):
                yield block.mean(axis=1)

    return read(), info.sample_rate


def pieces_of(chunks: Any, *, sample_rate: int | None, model_rate: int) -> tuple[Iterable[Any], int]:
    """The pieces that a user means, and their rate.

    Args:
        chunks: an iterable of pieces, the path of an audio file, or one array or `bytes` with all of the audio.
        sample_rate: of the pieces; a file knows its own, anything else is taken to have the model's.
        model_rate: in Hz.

    Raises:
        AudioError: a file is missing or is not audio, or there is nothing to iterate over.
    """
    if isinstance(chunks, (str, Path)):
        return file_pieces(chunks)
    if isinstance(chunks, (bytes, bytearray, memoryview, np.ndarray)) or hasattr(chunks, "detach"):
        return [chunks], sample_rate or model_rate
    if not isinstance(chunks, Iterable):
        raise AudioError(f"`chunks` must be an iterable of audio or the path of a file, but is {chunks!r}.")
    return chunks, sample_rate or model_rate
