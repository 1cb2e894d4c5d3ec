# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Speaker diarization from frames: who speaks when, of people who were never heard in training.

Real are the voices, where a manifest of recorded single-speaker utterances is given: its split `train` is trained on,
its split `test` tested on. Otherwise the speech synthesizer makes up the people. Made are the conversations:
utterances follow and overlap each other over a soft noise, without rooms. The frames are speaker embeddings of a
network, or statistics of mel bands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nemo_sortformer.data.mixing.manifest_pool import pool_from_manifest
from nemo_sortformer.data.mixing.pool import SAMPLE_RATE, UtterancePool
from nemo_sortformer.data.mixing.synthetic import synthetic_pool
from nemo_sortformer.data.tasks.audio_frames import mel_bands, mix_turns, spectral_frames
from nemo_sortformer.data.tasks.sequences import LabelTask, SequenceConfig, Split, Turn

Embed = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Audio at 16 kHz, shape (samples,) -> embeddings of 80 ms, shape (frames, dim)."""
FRAMES_PER_STEP = 3
"""Embeddings of 80 ms that one frame of the task is the mean of."""
_SAME_SOURCE = 0.5
_NUM_BANDS, _MEL_BANDS = 8, 40


class SpeakerTask(LabelTask):
    """Frames are 0.24 s of a conversation.

    Args:
        sequences: how speakers take turns.
        seed: start of all draws.
        manifest: recorded utterances as for :func:`pool_from_manifest`; None: synthetic people.
        num_synthetic: how many synthetic people there are to train on; half as many are unseen.
        embed: a network that makes embeddings of 80 ms, to which eight mel bands are added, as they tell silence from
            speech; None: statistics of mel bands instead.

    Raises:
        SynthesizerMissingError: there is no manifest, and `espeakng-loader` is not installed.
        PoolError: the manifest has no speakers of a split.
    """

    frame_seconds = 0.08 * FRAMES_PER_STEP

    def __init__(
        self,
        sequences: SequenceConfig | None = None,
        *,
        seed: int = 0,
        manifest: str | Path | None = None,
        num_synthetic: int = 120,
        embed: Embed | None = None,
    ) -> None:
        if manifest is None:
            train, unseen = synthetic_pool(num_synthetic, seed=1), synthetic_pool(num_synthetic // 2, seed=2)
        else:
            train, unseen = (pool_from_manifest(manifest, split=split, min_seconds=0.5) for split in ("train", "test"))
        self.pools: dict[Split, UtterancePool] = {"train": train, "seen": train, "unseen": unseen}
        prefix = {"train": "", "unseen": "" if manifest else "other "}
        names = {split: [prefix[split] + s.name for s in self.pools[split].speakers] for split in ("train", "unseen")}
        super().__init__(names, sequences or SequenceConfig(), seed)
        self._numbers = {
            split: {name: number for number, name in enumerate(self.classes[split])} for split in self.pools
        }
        self.embed = embed

    def draw_classes(self, split: Split, num_classes: int, rng: np.random.Generator) -> list[str]:
        """Half of the time all from one source, so that the microphone tells nothing."""
        groups = [group for group in self.pools[split].sources.values() if len(group) >= num_classes]
        if not groups or rng.random() >= _SAME_SOURCE:
            return super().draw_classes(split, num_classes, rng)
        group = groups[int(rng.integers(len(groups)))]
        return [self.classes[split][number] for number in rng.choice(group, num_classes, replace=False)]

    def render(
        self, classes: Sequence[str], turns: Sequence[Turn], split: Split, rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """Let each speaker say something in each turn, and embed the conversation."""
        pool = self.pools[split]
        pieces = [
            _speech(
                pool,
                self._numbers[split][classes[column]],
                round((end - start) * self.frame_seconds * SAMPLE_RATE),
                rng,
            )
            for column, start, end in turns
        ]
        audio = mix_turns(pieces, turns, self.sequences.num_frames, self.frame_seconds, rng)
        if self.embed is None:
            return spectral_frames(audio, self.frame_seconds)
        frames = self.embed(audio)
        wanted = self.sequences.num_frames * FRAMES_PER_STEP
        padded = np.pad(frames[:wanted], ((0, max(0, wanted - len(frames))), (0, 0)), mode="edge")
        voice = padded.reshape(self.sequences.num_frames, FRAMES_PER_STEP, -1).mean(axis=1)
        bands = mel_bands(audio).reshape(self.sequences.num_frames, -1, _NUM_BANDS, _MEL_BANDS // _NUM_BANDS)
        return np.concatenate([voice, bands.mean(axis=(1, 3))], axis=1)


def _speech(pool: UtterancePool, speaker: int, num_samples: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Cut `num_samples` out of what a speaker says, out of several utterances where one is too short."""
    utterances = pool.speakers[speaker].utterances
    parts: list[NDArray[np.float32]] = []
    missing = num_samples
    while missing > 0:
        number = int(rng.integers(len(utterances)))
        count = min(utterances[number].count, missing)
        start = int(rng.integers(utterances[number].count - count + 1))
        parts.append(pool.piece(speaker, number, start=start, count=count, factor=1.0))
        missing -= count
    return np.concatenate(parts)
