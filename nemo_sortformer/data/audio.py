# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Reading of audio files: any rate, any number of channels, and a clear error for whatever cannot be trusted."""

import math
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

__all__ = ["AudioError", "AudioInfo", "AudioWarning", "audio_blocks", "audio_info", "check_audio", "read_audio"]

_BLOCK_SECONDS = 60
_SLACK_SECONDS = 0.1
_STREAM_BYTES = 0x7FFFFF00
_FULL_SCALE = 0.99
_CLIPPED_SHARE = 1e-3
_OGG_CUT_SHORT = ("ended unexpectedly", "Junk after the last page", "Last page lacks an end-of-stream")
_DATA_CHUNK = re.compile(r"^data\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE)


class AudioError(ValueError):
    """A file that cannot be used as audio; the message begins with its path."""


class AudioWarning(UserWarning):
    """Audio that is read, but that a person should look at: clipped, or channels that cancel each other."""


class AudioInfo(NamedTuple):
    """What the header of an audio file says."""

    sample_rate: int
    """Samples per second of the file itself."""
    channels: int
    frames: int
    """Samples per channel."""

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.frames / self.sample_rate


def audio_info(path: str | Path) -> AudioInfo:
    """Read the header of an audio file.

    Raises:
        AudioError: the file is missing, empty, not audio, cut short, or holds no samples.
    """
    path = Path(path)
    with _open(path) as file:
        return _checked_info(path, file)


def read_audio(
    path: str | Path, *, offset: float = 0.0, duration: float | None = None, sample_rate: int = 16000
) -> np.ndarray:
    """Read a stretch of an audio file as one channel at one rate.

    Channels are averaged before resampling. The file is read in blocks of a minute, so that an hour of 48 kHz stereo
    never lies in memory as such. Values are not scaled and not limited to [-1, 1].

    Args:
        path: WAV, FLAC, OGG, MP3 or any other format of libsndfile.
        offset: start of the stretch, in seconds.
        duration: length of the stretch in seconds; None reads to the end. An end up to 0.1 s past that of the file
            counts as rounding, and gives the samples that there are.
        sample_rate: rate of the result, in Hz.

    Returns:
        float32 samples, shape (samples,), at least one.

    Raises:
        AudioError: the file is missing, empty, not audio, cut short, holds no samples or NaN, or ends before the
            stretch does.
    """
    path = Path(path)
    _check_stretch(path, offset, duration)
    with _open(path) as file:
        first, last = _stretch(path, file, offset, duration)
        samples = np.zeros(max(_resampled(last - first, file.samplerate, sample_rate), 1), dtype=np.float32)
        done = 0
        for block in _mono_blocks(path, file, first, last, sample_rate):
            samples[done : done + len(block)] = block
            done += len(block)
    return samples[: max(done, 1)]  # a stretch shorter than one sample of the result still gives one


def audio_blocks(
    path: str | Path, *, offset: float = 0.0, duration: float | None = None, sample_rate: int = 16000
) -> Iterator[np.ndarray]:
    """Read a stretch of an audio file block by block: joined they are what :func:`read_audio` gives.

    Args:
        path: as in :func:`read_audio`, like the others.
        offset: start of the stretch, in seconds.
        duration: length of the stretch in seconds; None reads to the end.
        sample_rate: rate of the result, in Hz.

    Yields:
        float32 samples, shape (samples,), of about a minute.

    Raises:
        AudioError: as :func:`read_audio`; of what is wrong inside the file, when it is reached.
    """
    path = Path(path)
    _check_stretch(path, offset, duration)
    with _open(path) as file:
        first, last = _stretch(path, file, offset, duration)
        yield from _mono_blocks(path, file, first, last, sample_rate, warn=False)


def check_audio(
    path: str | Path, *, offset: float = 0.0, duration: float | None = None, sample_rate: int = 16000
) -> int:
    """Read a stretch of an audio file once and keep nothing, so that what is wrong in its third hour is known at once.

    Returns:
        How many samples at `sample_rate` it has.

    Raises:
        AudioError: as :func:`read_audio`, whose warnings are given as well.
    """
    path = Path(path)
    _check_stretch(path, offset, duration)
    with _open(path) as file:
        first, last = _stretch(path, file, offset, duration)
        found = sum(len(block) for block in _mono_blocks(path, file, first, last, file.samplerate))
        return max(_resampled(found, file.samplerate, sample_rate), 1)


def _stretch(path: Path, file: soundfile.SoundFile, offset: float, duration: float | None) -> tuple[int, int]:
    """First sample of a stretch and the one behind its last, at the rate of the file."""
    info = _checked_info(path, file)
    first = round(offset * info.sample_rate)
    if first >= info.frames:
        raise AudioError(
            f"{path}: `offset` is {offset:g} s, but the file ends at {info.seconds:.3f} s. Correct the manifest."
        )
    last = info.frames
    if duration is not None:
        last = first + max(round(duration * info.sample_rate), 1)
        if last > info.frames + _SLACK_SECONDS * info.sample_rate:
            raise AudioError(
                f"{path}: `offset` + `duration` is {offset + duration:.3f} s, but the file ends at "
                f"{info.seconds:.3f} s. Correct the manifest, or fetch the file again if it was cut short."
            )
    return first, min(last, info.frames)


def _resampled(num_samples: int, rate: int, sample_rate: int) -> int:
    """Samples that the resampler makes of `num_samples`: their time in samples of the new rate, halves up."""
    return (2 * num_samples * sample_rate + rate) // (2 * rate)


def _check_stretch(path: Path, offset: float, duration: float | None) -> None:
    if not (math.isfinite(offset) and offset >= 0):
        raise AudioError(f"{path}: `offset` must be 0 or more seconds, but is {offset}.")
    if duration is not None and not (math.isfinite(duration) and duration > 0):
        raise AudioError(f"{path}: `duration` must be more than 0 seconds, or None, but is {duration}.")


def _open(path: Path) -> soundfile.SoundFile:
    if not path.exists():
        raise AudioError(f"{path}: there is no such file.")
    if not path.is_file():
        raise AudioError(f"{path}: is a folder, not an audio file.")
    if path.stat().st_size == 0:
        raise AudioError(f"{path}: the file is empty (0 bytes).")
    try:
        return soundfile.SoundFile(path)
    except (soundfile.SoundFileError, OSError, TypeError) as error:  # TypeError: an extension that means "headerless"
        raise AudioError(
            f"{path}: is not audio that can be read ({error}). WAV, FLAC, OGG and MP3 can; for other formats run "
            f"`ffmpeg -i <file> -ac 1 -ar 16000 <file>.wav` first."
        ) from error


def _checked_info(path: Path, file: soundfile.SoundFile) -> AudioInfo:
    log = file.extra_info
    chunk = _DATA_CHUNK.search(log)
    # Programs that write to a pipe leave 0 or a huge number as size: such a file is whole.
    cut_short = chunk is not None and int(chunk[2]) < int(chunk[1]) < _STREAM_BYTES
    if cut_short or any(sign in log for sign in _OGG_CUT_SHORT):
        raise _truncated(path, f"{file.frames / file.samplerate:.3f} s are there")
    if file.frames <= 0:
        raise AudioError(f"{path}: holds no samples (zero length).")
    return AudioInfo(sample_rate=file.samplerate, channels=file.channels, frames=file.frames)


def _truncated(path: Path, found: str) -> AudioError:
    return AudioError(
        f"{path}: is truncated or damaged: its header promises more audio than can be read ({found}). Fetch the file "
        f"again, or run `ffmpeg -i <file> <new file>` to keep what there is."
    )


def _mono_blocks(
    path: Path, file: soundfile.SoundFile, first: int, last: int, sample_rate: int, *, warn: bool = True
) -> Iterator[np.ndarray]:
    rate = file.samplerate
    resampler = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32") if rate != sample_rate else None
    done, clipped, energy_in, energy_out = first, 0, 0.0, 0.0
    try:
        file.seek(first)
        while done < last:
            block = file.read(min(_BLOCK_SECONDS * rate, last - done), dtype="float32", always_2d=True)
            if len(block) == 0:
                break
            done += len(block)
            if not np.isfinite(block).all():
                raise AudioError(f"{path}: holds NaN or infinite samples. Write the file again from its source.")
            clipped += _count_clipped(block)
            mono = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
            if block.shape[1] > 1:
                energy_in += float(np.square(block).sum()) / block.shape[1]
                energy_out += float(np.square(mono).sum())
            yield resampler.resample_chunk(mono, last=False) if resampler else mono
    except soundfile.SoundFileError as error:
        raise _truncated(path, f"it breaks off after {done / rate:.1f} s: {error}") from error
    if last - done > _SLACK_SECONDS * rate or done == first:
        raise _truncated(path, f"it ends at {done / rate:.3f} s instead of {file.frames / rate:.3f} s")
    if resampler:
        yield resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True)
    if warn and clipped > _CLIPPED_SHARE * (done - first) * file.channels:
        share = clipped / ((done - first) * file.channels)
        warnings.warn(f"{path}: {share:.1%} of the samples are clipped.", AudioWarning, stacklevel=3)
    if warn and energy_out < 1e-3 * energy_in:
        message = f"{path}: its channels cancel each other when averaged. Keep one channel of it."
        warnings.warn(message, AudioWarning, stacklevel=3)


def _count_clipped(block: np.ndarray) -> int:
    """Number of samples at full scale, where the neighbour in time is there as well."""
    full = np.abs(block) >= _FULL_SCALE
    return int((full[1:] & full[:-1]).sum())
