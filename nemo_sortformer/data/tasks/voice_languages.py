# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Two kinds of labels at once: which voice speaks, and which language it speaks.

All made, by the speech synthesizer. Each turn has a voice and, drawn independently of it, a language, so that neither
kind of label tells the other. Voices and languages of the test are both disjoint from those of the training.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nemo_sortformer.data.synthesis import SAMPLE_RATE
from nemo_sortformer.data.tasks.audio_frames import excerpt, mix_turns, spectral_frames
from nemo_sortformer.data.tasks.languages import TRAIN_LANGUAGES, UNSEEN_LANGUAGES, Clips, synthetic_clips
from nemo_sortformer.data.tasks.sequences import (
    SPLITS,
    LabeledSequence,
    LabelTask,
    SequenceConfig,
    Split,
    Turn,
    plan_turns,
    turns_to_labels,
)

TRAIN_VOICES = ("m1", "m2", "m3", "m7", "f2", "f4", "Annie", "Denis", "Michael", "belinda", "grandma", "robert")
UNSEEN_VOICES = ("m5", "f1", "f5", "Alicia", "Mario", "linda")


class VoiceLanguageTask(LabelTask):
    """Frames are half a second of speech; the kinds of labels are `speaker`, the main one, and `language`.

    Args:
        sequences: how voices take turns; a sequence has as many languages as `language_counts` say.
        seed: start of all draws.
        num_languages: how many of the training languages are used.
        language_counts: how many languages a sequence has, each as likely.

    Raises:
        SynthesizerMissingError: `espeakng-loader` is not installed.
    """

    frame_seconds = 0.5

    def __init__(
        self,
        sequences: SequenceConfig | None = None,
        *,
        seed: int = 0,
        num_languages: int = 24,
        language_counts: Sequence[int] = (1, 2),
    ) -> None:
        super().__init__({"train": TRAIN_VOICES, "unseen": UNSEEN_VOICES}, sequences or SequenceConfig(), seed)
        train, unseen = TRAIN_LANGUAGES[:num_languages], UNSEEN_LANGUAGES[:num_languages]
        self.languages: dict[Split, tuple[str, ...]] = {"train": train, "seen": train, "unseen": unseen}
        self.language_counts = tuple(language_counts)
        self._clips: dict[Split, Clips] = {}

    def clips(self, split: Split) -> Clips:
        """What the voices say in each language; made when it is first asked for."""
        if split not in self._clips:
            rng = np.random.default_rng([self.seed, SPLITS.index(split)])
            self._clips[split] = synthetic_clips(self.languages[split], self.classes[split], rng, num_clips=1)
        return self._clips[split]

    def make(self, split: Split, number: int) -> LabeledSequence:
        """Make sequence `number` of a split; `more_labels` has both kinds."""
        rng = np.random.default_rng([self.seed, SPLITS.index(split), number])
        voices = self.draw_classes(split, int(rng.choice(self.sequences.class_counts)), rng)
        turns = plan_turns(self.sequences, len(voices), rng)
        count = min(int(rng.choice(self.language_counts)), len(turns))
        spoken = [int(k) for k in rng.permutation(len(turns)) % count]  # every language is there
        pool = self.languages[split]
        languages = [pool[k] for k in rng.choice(len(pool), count, replace=False)]
        names = [f"{voices[turn.column]} {languages[k]}" for turn, k in zip(turns, spoken, strict=True)]
        frames = self.render(names, [turn._replace(column=k) for k, turn in enumerate(turns)], split, rng)
        in_language = [turn._replace(column=k) for turn, k in zip(turns, spoken, strict=True)]
        kinds = {
            "speaker": turns_to_labels(turns, self.sequences.num_frames, len(voices)),
            "language": turns_to_labels(in_language, self.sequences.num_frames, count),
        }
        return LabeledSequence(frames.astype(np.float32), kinds["speaker"], tuple(voices), kinds)

    def render(
        self, classes: Sequence[str], turns: Sequence[Turn], split: Split, rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """Let a voice speak in each turn; a class is a voice and a language."""
        clips = self.clips(split)
        pieces = []
        for column, start, end in turns:
            voice, language = classes[column].split()
            count = round((end - start) * self.frame_seconds * SAMPLE_RATE)
            pieces.append(excerpt(clips[language][voice], count, rng))
        audio = mix_turns(pieces, turns, self.sequences.num_frames, self.frame_seconds, rng)
        return spectral_frames(audio, self.frame_seconds)
