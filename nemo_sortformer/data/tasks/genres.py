# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""New-genre detection: music of instruments and rhythms that were never heard in training.

All made, by the small synthesizer below. A genre is a set of numbers drawn from its name: tempo, a rhythm of sixteen
steps for each of three drums, the sound of two instruments (harmonics, attack, decay, vibrato), a scale, and how
densely they play. Each of its pieces has another key, another melody and
another tempo (by up to 4 %); pieces of the tests are not those of the training. There are as many
genres as names, and the unseen ones share no instrument and no rhythm with the training ones.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from nemo_sortformer.data.tasks.audio_frames import excerpt, mix_turns, spectral_frames
from nemo_sortformer.data.tasks.sequences import SPLITS, LabelTask, SequenceConfig, Split, Turn

SAMPLE_RATE = 16_000
_SCALES = ((0, 2, 4, 7, 9), (0, 3, 5, 7, 10), (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 1, 4, 5, 7, 8, 10))
_STEPS = 16
_NUM_HARMONICS = 10
_LONGEST_TONE = 1.2
_PIECE_SECONDS, _NUM_PIECES = 8.0, 4


class Genre:
    """What all pieces of a genre have in common; a function of its name."""

    def __init__(self, name: str) -> None:
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        self.step_seconds = 15 / float(np.exp(rng.uniform(np.log(70), np.log(180))))
        self.scale = _SCALES[int(rng.integers(len(_SCALES)))]
        self.drum_level = rng.choice([0.0, 0.4, 0.8, 1.2])
        self.drums = [_Drum(rng, kind) for kind in range(3)]
        self.bass, self.lead = _Instrument(rng, octave=(-2, -1)), _Instrument(rng, octave=(0, 2))

    def play(self, seconds: float, rng: np.random.Generator) -> NDArray[np.float32]:
        """Make up a piece, shape (samples,), of root mean square 0.1."""
        step = round(self.step_seconds * rng.uniform(0.96, 1.04) * SAMPLE_RATE)
        num_samples = round(seconds * SAMPLE_RATE)
        x = np.zeros(num_samples + 2 * SAMPLE_RATE)
        first = int(rng.integers(_STEPS))
        root = 220 * 2 ** (rng.integers(-6, 6) / 12)
        bass, lead = int(rng.integers(len(self.scale))), int(rng.integers(len(self.scale)))
        for number in range(num_samples // step + 1):
            beat, at = (first + number) % _STEPS, number * step
            for drum in self.drums:
                if drum.pattern[beat]:
                    _add(x, at, self.drum_level * drum.sound(rng))
            if self.bass.pattern[beat]:
                bass = int(rng.integers(len(self.scale)))
                _add(x, at, self.bass.sound(root, self.scale[bass]))
            if self.lead.pattern[beat] and rng.random() < 0.9:
                lead = (lead + int(rng.integers(-2, 3))) % len(self.scale)
                _add(x, at, 0.8 * self.lead.sound(root, self.scale[lead]))
        x = x[:num_samples]
        return (0.1 * x / (np.sqrt(np.mean(x**2)) + 1e-9)).astype(np.float32)


class _Drum:
    """Filtered noise or a falling tone, on some of the sixteen steps."""

    def __init__(self, rng: np.random.Generator, kind: int) -> None:
        density = (0.25, 0.2, 0.5)[kind]
        self.pattern = rng.random(_STEPS) < density
        self.decay = rng.uniform(0.03, 0.2)
        self.pole = (0.97, rng.uniform(-0.2, 0.7), rng.uniform(-0.9, -0.3))[kind]
        self.tone = rng.uniform(45, 110) if kind == 0 else 0.0

    def sound(self, rng: np.random.Generator) -> NDArray[np.float64]:
        time = np.arange(int(4 * self.decay * SAMPLE_RATE)) / SAMPLE_RATE
        fade = np.exp(-time / self.decay)
        if self.tone:
            return 1.5 * fade * np.sin(2 * np.pi * self.tone * (time + 0.03 * (1 - np.exp(-time / 0.03))))
        noise = lfilter([1 - abs(self.pole)], [1, -self.pole], rng.standard_normal(len(time)))
        return 0.6 * fade * noise / (noise.std() + 1e-9)


class _Instrument:
    """Harmonics under an envelope."""

    def __init__(self, rng: np.random.Generator, octave: tuple[int, int]) -> None:
        self.octave = int(rng.integers(octave[0], octave[1] + 1))
        number = np.arange(1, _NUM_HARMONICS + 1)
        self.harmonics = number ** -rng.uniform(0.3, 2.5) * np.exp(0.6 * rng.standard_normal(_NUM_HARMONICS))
        if rng.random() < 0.3:
            self.harmonics[1::2] *= 0.05  # as in a clarinet
        self.harmonics /= np.sqrt((self.harmonics**2).sum())
        self.attack, self.decay = (
            np.exp(rng.uniform(np.log(0.004), np.log(0.12))),
            np.exp(rng.uniform(np.log(0.06), np.log(0.8))),
        )
        self.vibrato = rng.choice([0.0, 0.0, 0.008]) * rng.uniform(0.5, 1.5)
        self.pattern = rng.random(_STEPS) < rng.uniform(0.15, 0.6)
        self.pattern[int(rng.integers(_STEPS))] = True
        self._sounds: dict[tuple[float, int], NDArray[np.float64]] = {}

    def sound(self, root: float, semitone: int) -> NDArray[np.float64]:
        if (root, semitone) not in self._sounds:
            time = np.arange(int(min(4 * self.decay + self.attack, _LONGEST_TONE) * SAMPLE_RATE)) / SAMPLE_RATE
            pitch = root * 2 ** (self.octave + semitone / 12)
            phase = 2 * np.pi * pitch * (time + self.vibrato / (2 * np.pi * 5.5) * np.sin(2 * np.pi * 5.5 * time))
            number = np.arange(1, _NUM_HARMONICS + 1)
            audible = self.harmonics * (number * pitch < 0.48 * SAMPLE_RATE)
            tone = audible @ np.sin(np.outer(number, phase))
            self._sounds[root, semitone] = tone * np.minimum(time / self.attack, 1) * np.exp(-time / self.decay)
        return self._sounds[root, semitone]


def _add(x: NDArray[np.float64], at: int, sound: NDArray[np.float64]) -> None:
    part = x[at : at + len(sound)]
    part += sound[: len(part)]


class GenreTask(LabelTask):
    """Frames are half a second of music: mean, spread and rhythm of log-mel bands; void is soft noise.

    Args:
        sequences: how genres take turns.
        seed: start of all draws.
        num_train: how many genres there are to train on.
        num_unseen: how many other genres there are.
    """

    frame_seconds = 0.5

    def __init__(
        self, sequences: SequenceConfig | None = None, *, seed: int = 0, num_train: int = 60, num_unseen: int = 30
    ) -> None:
        train = [f"genre {number}" for number in range(num_train)]
        unseen = [f"new genre {number}" for number in range(num_unseen)]
        super().__init__({"train": train, "unseen": unseen}, sequences or SequenceConfig(), seed)
        self._pieces: dict[tuple[Split, str], list[NDArray[np.float32]]] = {}

    def pieces(self, split: Split, name: str) -> list[NDArray[np.float32]]:
        """The pieces of a genre in a split, four of 8 s; made when they are first asked for."""
        if (split, name) not in self._pieces:
            rng = np.random.default_rng([self.seed, SPLITS.index(split), zlib.crc32(name.encode())])
            genre = Genre(name)
            self._pieces[split, name] = [genre.play(_PIECE_SECONDS, rng) for _ in range(_NUM_PIECES)]
        return self._pieces[split, name]

    def render(
        self, classes: Sequence[str], turns: Sequence[Turn], split: Split, rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """Play a part of some piece in each turn."""
        parts = [
            excerpt(self.pieces(split, classes[column]), round((end - start) * self.frame_seconds * SAMPLE_RATE), rng)
            for column, start, end in turns
        ]
        audio = mix_turns(parts, turns, self.sequences.num_frames, self.frame_seconds, rng)
        return spectral_frames(audio, self.frame_seconds)
