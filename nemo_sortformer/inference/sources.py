# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What a user may give to be diarized (files, a folder, a manifest, samples), as one list of named recordings."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from nemo_sortformer.data.audio import AudioError, audio_info, read_audio
from nemo_sortformer.inference.long_audio import LongAudio

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64", ".caf")
"""What counts as audio in a folder; a file that is named itself may have any suffix."""
MANIFEST_SUFFIXES = (".json", ".jsonl")


@dataclass(frozen=True, kw_only=True)
class AudioSource:
    """One recording to diarize, not read yet."""

    name: str
    """Unique within one run."""
    path: Path | None = None
    samples: np.ndarray | None = field(default=None, compare=False, repr=False)
    sample_rate: int | None = None
    """Of `samples`."""
    offset: float = 0.0
    duration: float | None = None
    rttm_filepath: Path | None = None
    """The truth, where a manifest names it."""
    seglst_filepath: Path | None = None
    """The truth with its words, where a manifest names it."""

    def seconds(self) -> float:
        """Length to be diarized, from the header alone.

        Raises:
            AudioError: the file is missing or is not audio.
        """
        if self.samples is not None:
            return max(self.samples.shape) / (self.sample_rate or 1) if self.samples.size else 0.0
        info = audio_info(self.path or "")
        whole = info.seconds
        return max(whole - self.offset, 0.0) if self.duration is None else self.duration

    def read(self, sample_rate: int) -> np.ndarray:
        """The samples as float32 mono (N,) at `sample_rate`.

        Raises:
            AudioError: the recording cannot be read, or has no samples or NaN in it.
        """
        if self.samples is None:
            audio = read_audio(self.path or "", offset=self.offset, duration=self.duration, sample_rate=sample_rate)
        else:
            audio = mono_samples(self.samples, name=self.name)
            if self.sample_rate != sample_rate:
                import soxr

                audio = soxr.resample(audio, self.sample_rate, sample_rate).astype(np.float32)
        if len(audio) == 0:
            raise AudioError(f"`{self.name}` holds no samples.")
        return audio

    def identity(self) -> dict[str, Any]:
        """What tells this recording from another, or from itself after it was changed."""
        if self.path is None or self.samples is not None:
            samples = np.ascontiguousarray(self.samples)
            content = {"crc32": zlib.crc32(samples.tobytes()), "sample_rate": self.sample_rate}
        else:
            state = self.path.stat()
            content = {"path": str(self.path.resolve()), "bytes": state.st_size, "changed": state.st_mtime_ns}
        return {**content, "offset": self.offset, "duration": self.duration}

    def open(self, sample_rate: int) -> LongAudio | np.ndarray:
        """As :meth:`read`, but of a file the samples are read when they are sliced.

        Raises:
            AudioError: as :meth:`read`; the whole file is checked at once.
        """
        if self.path is None or self.samples is not None:
            return self.read(sample_rate)
        return LongAudio(self.path, offset=self.offset, duration=self.duration, sample_rate=sample_rate)


def collect_sources(audio: Any, *, sample_rate: int | None = None) -> list[AudioSource]:
    """List the recordings in whatever a user gives.

    Args:
        audio: a path to an audio file, to a folder (its audio files, sorted by name, without sub-folders) or to a
            manifest (`.json`, `.jsonl`); samples as a numpy array or tensor, shape (samples,) or with a few channels;
            or a list that mixes these.
        sample_rate: samples per second of the arrays; required for them.

    Returns:
        Recordings in the order given, with unique names. Missing files are listed too: reading them fails, and
        only them. Names are file names without suffix (a manifest's `uniq_id`), and `array_0`, ... for samples.

    Raises:
        ValueError: samples without a sample rate, a folder without audio, a bad manifest, or an object of no use.
    """
    found: list[AudioSource] = []
    for item in audio if isinstance(audio, (list, tuple)) else [audio]:
        if isinstance(item, (str, Path)):
            found.extend(_sources_of_path(Path(item)))
        elif isinstance(item, np.ndarray) or hasattr(item, "detach"):
            samples = item if isinstance(item, np.ndarray) else item.detach().cpu().numpy()
            if sample_rate is None:
                raise ValueError("`sample_rate` must be given, in Hz, where `audio` is samples, but is None.")
            number = sum(source.samples is not None for source in found)
            found.append(AudioSource(name=f"array_{number}", samples=samples, sample_rate=sample_rate))
        else:
            hint = " Give the paths or the samples that it loads." if hasattr(item, "dataset") else ""
            raise ValueError(
                "`audio` must be a path, a folder, a manifest, a numpy array or a list of those, but is or holds a "
                f"`{type(item).__name__}`.{hint}"
            )
    return name_apart(found)


def name_apart(sources: Sequence[AudioSource]) -> list[AudioSource]:
    """Give recordings of equal names different ones.

    Files from different folders take as many folder names in front as tell them apart (`monday_talk`,
    `friday_talk`), files of one folder their suffix (`talk_wav`, `talk_flac`), stretches of one file their start and
    end in milliseconds (`talk-0-12500`), and what is still equal a number (`talk-2`): the rule of manifests.

    Example:
        >>> paths = [Path("monday/talk.wav"), Path("friday/talk.wav")]
        >>> [source.name for source in name_apart([AudioSource(name=p.stem, path=p) for p in paths])]
        ['monday_talk', 'friday_talk']
    """
    names = [source.name for source in sources]
    for rename in (_by_folders, _by_suffix, _by_stretch):
        for name, count in Counter(names).items():
            members = [i for i, other in enumerate(names) if other == name] if count > 1 else []
            fresh = rename([sources[i] for i in members], name)
            if len(set(fresh)) > 1:  # a longer name that tells nobody apart is of no use
                for i, longer in zip(members, fresh, strict=True):
                    names[i] = longer
    return [replace(source, name=name) for source, name in zip(sources, _by_number(names), strict=True)]


def _sources_of_path(path: Path) -> Iterator[AudioSource]:
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in AUDIO_SUFFIXES and p.is_file())
        if not files:
            raise ValueError(
                f"`{path}` has no audio files ({' '.join(AUDIO_SUFFIXES[:4])} ...). Sub-folders are not searched: "
                "name them one by one, or write a manifest."
            )
        yield from (AudioSource(name=p.stem, path=p) for p in files)
    elif path.suffix.lower() in MANIFEST_SUFFIXES:
        from nemo_sortformer.data.manifest import read_manifest

        for entry in read_manifest(path):
            yield AudioSource(
                name=entry.uniq_id or entry.audio_filepath.stem,
                path=entry.audio_filepath,
                offset=entry.offset,
                duration=entry.duration,
                rttm_filepath=entry.rttm_filepath,
                seglst_filepath=entry.seglst_filepath,
            )
    else:
        yield AudioSource(name=path.stem, path=path)


def mono_samples(samples: np.ndarray, *, name: str = "audio") -> np.ndarray:
    """Samples as float32 mono (N,): integers are scaled to [-1, 1], channels averaged along the short axis.

    Raises:
        AudioError: the array has more than two axes, or holds NaN or infinity.
    """
    audio = np.asarray(samples)
    if np.issubdtype(audio.dtype, np.integer):
        audio = audio.astype(np.float32) / float(np.iinfo(audio.dtype).max + 1)
    elif not np.issubdtype(audio.dtype, np.floating):
        raise AudioError(f"`{name}` must hold floats or integers, but its type is {audio.dtype}.")
    if audio.ndim == 2:
        audio = audio.mean(axis=0 if audio.shape[0] <= 8 and audio.shape[1] > audio.shape[0] else 1)
    if audio.ndim != 1:
        raise AudioError(f"`{name}` must have the shape (samples,) or (channels, samples), but has {audio.shape}.")
    if not np.isfinite(audio).all():
        raise AudioError(f"`{name}` holds NaN or infinite samples. Replace them before diarizing.")
    return audio.astype(np.float32)


def _by_folders(sources: list[AudioSource], name: str) -> list[str]:
    """As few of the last folder names in front as tell apart all the folders that there are."""
    folders = [s.path.resolve().parts[1:-1] if s.path is not None else () for s in sources]
    for level in range(1, max(map(len, folders), default=0) + 1):
        fresh = ["_".join([*parts[-level:], name]) for parts in folders]
        if len(set(fresh)) == len(set(folders)):
            return fresh
    return [name] * len(sources)


def _by_suffix(sources: list[AudioSource], name: str) -> list[str]:
    return [f"{name}_{s.path.suffix[1:]}" if s.path is not None and s.path.suffix else name for s in sources]


def _by_stretch(sources: list[AudioSource], name: str) -> list[str]:
    ends = ["end" if s.duration is None else str(round((s.offset + s.duration) * 1000)) for s in sources]
    return [f"{name}-{round(s.offset * 1000)}-{end}" for s, end in zip(sources, ends, strict=True)]


def _by_number(names: list[str]) -> list[str]:
    numbered: list[str] = []
    taken: set[str] = set()
    given = set(names)
    for name in names:
        fresh, number = name, 1
        while fresh in taken or (number > 1 and fresh in given):
            number += 1
            fresh = f"{name}-{number}"
        numbered.append(fresh)
        taken.add(fresh)
    return numbered
