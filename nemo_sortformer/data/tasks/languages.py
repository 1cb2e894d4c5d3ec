# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Unknown-language detection: which stretches are in one language, for languages that were never heard in training.

Made are the training and the main test: the speech synthesizer reads numbers in each language. With `voices: one` a
recording has one timbre throughout, so that nothing but the language tells its segments apart; with `voices: many`
each segment has a timbre of its own, so that the language must be told from the voice. Timbres of the tests are not
those of the training. Real is a second test, English and Arabic from recorded people: no training languages either.
There each language comes from its own recording room as well, so that it is easier than it looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nemo_sortformer.config import ConfigError
from nemo_sortformer.data.audio import read_audio
from nemo_sortformer.data.manifest import read_manifest
from nemo_sortformer.data.synthesis import SAMPLE_RATE, SpeechSynthesizer
from nemo_sortformer.data.tasks.audio_frames import excerpt, mix_turns, spectral_frames
from nemo_sortformer.data.tasks.sequences import LabelTask, SequenceConfig, Split, Turn


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


TRAIN_LANGUAGES = _words(
    "af an as az be bg bn ca cs da eo es et fa ga gu he hr ht hy id it kk kn ku lb lv mk mr my ne nl om pap ro ru shn "
    "si sq sv te tn tt uk"
)
UNSEEN_LANGUAGES = _words("am ar cmn cy de el en-us eu fi fr-fr hi hu is ja ka ko lt ml pl qu sw ta th vi")
"""No close relatives among themselves; some have one among the training languages, as Hindi has Gujarati."""
TRAIN_TIMBRES = ("m1", "m3", "m7", "f2", "f4", "Annie")
TEST_TIMBRES = ("m5", "f1", "f5")
_CLIP_SECONDS, _NUM_CLIPS = 8.0, 3
Clips = dict[str, dict[str, list[NDArray[np.float32]]]]
"""Language -> voice -> recordings at 16 kHz."""


class LanguageTask(LabelTask):
    """Frames are half a second of speech, described as in :func:`spectral_frames`; void is soft noise.

    Args:
        sequences: how languages take turns.
        seed: start of all draws.
        voices: "one" timbre in a whole sequence, or "many", another one in each turn.
        recorded: manifest of recorded utterances with `language`, `speaker` and `split`; its lines of the split `test`
            make the split `recorded`. None: there is no such split.

    Raises:
        SynthesizerMissingError: `espeakng-loader` is not installed.
    """

    frame_seconds = 0.5

    def __init__(
        self,
        sequences: SequenceConfig | None = None,
        *,
        seed: int = 0,
        voices: Literal["one", "many"] = "one",
        recorded: str | Path | None = None,
    ) -> None:
        if voices not in ("one", "many"):
            raise ConfigError(f'`voices` must be "one" or "many", but is {voices!r}.')
        clips = {} if recorded is None else recorded_clips(Path(recorded))
        if both := sorted(set(clips) & set(TRAIN_LANGUAGES)):
            raise ConfigError(f"{recorded}: languages of the test must not be trained on, but {', '.join(both)} are.")
        super().__init__(
            {"train": TRAIN_LANGUAGES, "unseen": UNSEEN_LANGUAGES, "recorded": tuple(clips)},
            sequences or SequenceConfig(),
            seed,
        )
        self.voices, self.recorded = voices, clips
        self._synthetic: dict[Split, Clips] = {}

    def clips(self, split: Split) -> Clips:
        """The recordings of a split; synthetic ones are made when they are first asked for."""
        if split == "recorded":
            return self.recorded
        if split not in self._synthetic:
            timbres = TRAIN_TIMBRES if split == "train" else TEST_TIMBRES
            rng = np.random.default_rng([self.seed, len(timbres)])
            self._synthetic[split] = synthetic_clips(self.classes[split], timbres, rng)
        return self._synthetic[split]

    def render(
        self, classes: Sequence[str], turns: Sequence[Turn], split: Split, rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """Let somebody speak in each turn."""
        clips = self.clips(split)
        names = list(clips[classes[0]])
        voice = names[int(rng.integers(len(names)))]
        pieces = []
        for column, start, end in turns:
            by_voice = clips[classes[column]]
            if self.voices == "many" or split == "recorded":
                names = list(by_voice)
                voice = names[int(rng.integers(len(names)))]
            pieces.append(excerpt(by_voice[voice], round((end - start) * self.frame_seconds * SAMPLE_RATE), rng))
        audio = mix_turns(pieces, turns, self.sequences.num_frames, self.frame_seconds, rng)
        return spectral_frames(audio, self.frame_seconds)


def synthetic_clips(
    languages: Sequence[str], timbres: Sequence[str], rng: np.random.Generator, *, num_clips: int = _NUM_CLIPS
) -> Clips:
    """Let every timbre read numbers in every language, `num_clips` clips of 8 s each."""
    synthesizer = SpeechSynthesizer()

    def clip(voice: str) -> NDArray[np.float32]:
        parts: list[NDArray[np.float32]] = []
        while sum(map(len, parts)) < _CLIP_SECONDS * SAMPLE_RATE:
            parts.append(synthesizer.say(" ".join(str(int(10 ** rng.uniform(0, 4))) for _ in range(6)), voice))
        return np.concatenate(parts)[: round(_CLIP_SECONDS * SAMPLE_RATE)]

    return {
        language: {timbre: [clip(f"{language}+{timbre}") for _ in range(num_clips)] for timbre in timbres}
        for language in languages
    }


def recorded_clips(manifest: Path) -> Clips:
    """Read the utterances of the split `test`; those of a source without anything above 4 kHz are left out.

    Raises:
        ManifestError: a line cannot be read.
        AudioError: a recording cannot be read.
    """
    clips: Clips = {}
    for entry in read_manifest(manifest):
        if entry.extra.get("split") != "test" or entry.extra.get("source") == "fsdd":
            continue
        offset = float(entry.extra.get("speech_start", entry.offset))
        end = entry.extra.get("speech_end")
        duration = None if end is None else float(end) - offset
        audio = read_audio(entry.audio_filepath, offset=offset, duration=duration, sample_rate=SAMPLE_RATE)
        voice = clips.setdefault(str(entry.extra.get("language")), {}).setdefault(entry.speaker or "", [])
        voice.append(np.asarray(audio, dtype=np.float32))
    return clips
