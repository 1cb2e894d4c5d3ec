# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""A pool of as many synthetic speakers as one likes, to train on beside recorded ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import soxr

from nemo_sortformer.data.mixing.conversation import SYNTHETIC
from nemo_sortformer.data.mixing.pool import SAMPLE_RATE, Recording, UtterancePool
from nemo_sortformer.data.synthesis import SpeechSynthesizer

LONGEST_SECONDS = 12.0
"""Longer utterances are cut off: in some languages a row of numbers takes half a minute."""


def _words(text: str, separator: str | None = None) -> tuple[str, ...]:
    return tuple(text.split(separator))


LANGUAGES = _words(
    "en-us en-gb en-gb-scotland en-gb-x-rp en-gb-x-gbclan en-gb-x-gbcwmd en-us-nyc en-029 de fr-fr es es-419 it pt "
    "pt-br nl sv da nb fi pl cs sk hu ro tr el ru uk bg hr sl et lv lt is cy ga eu ca af sw id ms vi hi bn ta ar fa "
    "ja cmn"
)
TIMBRES = _words(
    "m1 m2 m3 m4 m5 m6 m7 m8 f1 f2 f3 f4 f5 Alicia Andy Annie Denis Diogo Gene Gene2 Henrique Hugo Lee Mario Michael "
    "Mike Nguyen adam announcer aunty belinda benjamin boris david ed edward grandma grandpa gustave ian iven3 iven4 "
    "john linda marcelo max michel miguel norbert pablo pedro quincy rob robert sandro shelby steph travis victor zac"
)
_OPENERS = _words("so well actually and but then maybe today perhaps now okay listen")
_SUBJECTS = _words("we|the others|my neighbour|that machine|the whole team|your brother|the new design|a friend", "|")
_VERBS = _words("wants to change|could have found|forgot|is looking at|will bring|never liked|asked about", "|")
_OBJECTS = _words("the big house|a yellow button|this number|every meeting|the price|some old pictures|it", "|")
_ENDINGS = _words("before lunch|for no reason|in the afternoon|again|as far as I know|with three people||", "|")


def synthetic_pool(
    num_speakers: int, *, num_utterances: int = 8, seed: int = 0, min_seconds: float = 0.25
) -> UtterancePool:
    """Make a pool of synthetic speakers: some 40 ms of one core and 26 s of speech for each, at 8 utterances.

    Language, timbre, pitch, rate and length of the vocal tract are drawn for each.

    Args:
        num_speakers: how many.
        num_utterances: utterances of each, from one word to a long sentence (0.3 to 12 s).
        seed: start of all draws; speaker n is the same for any `num_speakers`.
        min_seconds: shorter utterances are left out, seconds.

    Raises:
        SynthesizerMissingError: `espeakng-loader` is not installed.
    """
    return UtterancePool(_recordings(SpeechSynthesizer(), num_speakers, num_utterances, seed), min_seconds=min_seconds)


def _recordings(
    synthesizer: SpeechSynthesizer, num_speakers: int, num_utterances: int, seed: int
) -> Iterator[Recording]:
    for number in range(num_speakers):
        rng = np.random.default_rng([seed, number])
        language = LANGUAGES[int(rng.integers(len(LANGUAGES)))]
        voice = f"{language}+{TIMBRES[int(rng.integers(len(TIMBRES)))]}"
        speed, pitch, tract = rng.uniform(0.8, 1.35), 2 ** rng.uniform(-0.5, 0.5), 2 ** rng.uniform(-0.2, 0.2)
        for _ in range(num_utterances):
            x = synthesizer.say(random_text(language, rng), voice, speed=speed, pitch=pitch)
            if len(x):
                x = soxr.resample(x[: int(LONGEST_SECONDS * SAMPLE_RATE)], SAMPLE_RATE * tract, SAMPLE_RATE)
                yield Recording(f"synthetic{number:05d}", SYNTHETIC, x)


def random_text(language: str, rng: np.random.Generator) -> str:
    """Make up something to say: an English sentence or, mostly where the language is another, numbers.

    Every voice reads numbers in its own language, which takes no text of that language.
    """

    def pick(words: tuple[str, ...]) -> str:
        return words[int(rng.integers(len(words)))]

    if rng.random() < (0.15 if language.startswith("en") else 0.6):
        return " ".join(str(int(10 ** rng.uniform(0, 4))) for _ in range(int(rng.integers(1, 6))))
    if rng.random() < 0.2:
        return pick(_OPENERS)
    parts = (_SUBJECTS, _VERBS, _OBJECTS, _ENDINGS)
    clauses = [" ".join(pick(part) for part in parts) for _ in range(int(rng.integers(1, 3)))]
    return (pick(_OPENERS) + " " if rng.random() < 0.5 else "") + ", ".join(clauses)
