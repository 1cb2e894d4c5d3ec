# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Pools of whole utterances with texts: recorded ones of a manifest, and synthetic speakers who say the same."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import soxr

from nemo_sortformer.config.utterances import UtteranceMixingConfig
from nemo_sortformer.data.audio import audio_info, read_audio
from nemo_sortformer.data.manifest import ManifestEntry
from nemo_sortformer.data.mixing.conversation import SYNTHETIC
from nemo_sortformer.data.mixing.manifest_pool import choose_entries
from nemo_sortformer.data.mixing.pool import SAMPLE_RATE, PoolError, Recording, UtterancePool
from nemo_sortformer.data.mixing.synthetic import TIMBRES
from nemo_sortformer.data.spoken_words import TRANSCRIPT
from nemo_sortformer.data.synthesis import SpeechSynthesizer
from nemo_sortformer.data.word_reader import entry_speech, entry_texts

__all__ = ["build_spoken_pool", "say_letters", "synthetic_recordings"]

_SPELLING_LETTERS = 10
_LETTER_A = "eigh"  # read as the letter; `a` between other words is read as the article


def build_spoken_pool(config: UtteranceMixingConfig, fields: Sequence[str] = (TRANSCRIPT,)) -> UtterancePool:
    """Read the utterances that a config names, and make its synthetic speakers.

    Utterances that lack one of the texts are left out, with one warning that says how many.

    Args:
        config: what to mix.
        fields: texts that every utterance must have.

    Raises:
        ManifestError, AudioError: a line or its audio cannot be read.
        PoolError: there is nothing to mix, or synthetic speakers have nothing to say.
        SynthesizerMissingError: synthetic speakers are wanted, but `espeakng-loader` is not installed.
    """
    recordings: list[Recording] = []
    texts = list(config.synthetic_texts)
    if config.manifest is not None:
        entries = choose_entries(
            config.manifest, split=config.split, sources=config.sources, exclude_sources=config.exclude_sources
        )
        spoken = [(entry, entry_texts(entry, fields)) for entry in entries]
        written = [(entry, found) for entry, found in spoken if all(found.values())]
        if not written:
            raise PoolError(
                f"{config.manifest}: no line that is chosen has a text for {' and '.join(f'`{f}`' for f in fields)}. "
                "The transcript is the key `text`; give every line one, or choose others by `split` and `sources`."
            )
        if len(written) < len(entries):
            warnings.warn(
                f"{config.manifest}: {len(entries) - len(written)} of {len(entries)} utterances have no text and are "
                "left out.",
                stacklevel=2,
            )
        recordings += _recorded(written, config)
        texts = texts or [found[TRANSCRIPT] for _, found in written if TRANSCRIPT in found]
    if config.synthetic_speakers:
        if not texts or set(fields) != {TRANSCRIPT}:
            raise PoolError(
                "`synthetic_speakers` can say transcripts only, and need some: give `manifest` or `synthetic_texts`, "
                f"and no other text than `{TRANSCRIPT}`."
            )
        recordings += synthetic_recordings(config, texts)
    if not recordings:
        raise PoolError("There is nothing to mix: set `manifest`, or `synthetic_speakers`, or both.")
    return UtterancePool(recordings, min_seconds=config.min_utterance_seconds)


def synthetic_recordings(config: UtteranceMixingConfig, texts: Sequence[str], *, seed: int = 0) -> Iterator[Recording]:
    """Let synthetic speakers say texts, and the same words in random order.

    Args:
        config: how many speakers and utterances, and how often random words.
        texts: what to say, and the vocabulary of random words.
        seed: start of all draws; speaker n is the same for any number of speakers.
    """
    synthesizer = SpeechSynthesizer()
    vocabulary = sorted({word for text in texts for word in text.split()})
    lengths = [len(text.split()) for text in texts]
    for number in range(config.synthetic_speakers):
        rng = np.random.default_rng([seed, number, 7])
        language = config.synthetic_languages[int(rng.integers(len(config.synthetic_languages)))]
        voice = f"{language}+{TIMBRES[int(rng.integers(len(TIMBRES)))]}"
        speed, pitch, tract = rng.uniform(0.7, 1.2), 2 ** rng.uniform(-0.5, 0.5), 2 ** rng.uniform(-0.2, 0.2)
        for _ in range(config.synthetic_utterances):
            text = texts[int(rng.integers(len(texts)))]
            if rng.random() < config.synthetic_word_share:
                count = lengths[int(rng.integers(len(lengths)))]
                text = " ".join(vocabulary[int(k)] for k in rng.integers(len(vocabulary), size=count))
            pace = float(np.clip(speed * 2 ** rng.uniform(-0.25, 0.25), 0.5, 1.6))
            x = synthesizer.say(say_letters(text, vocabulary), voice, speed=pace, pitch=pitch)
            x = soxr.resample(x, SAMPLE_RATE * tract, SAMPLE_RATE) if len(x) else x
            if 0 < len(x) <= config.max_utterance_seconds * SAMPLE_RATE:
                yield Recording(f"synthetic{number:05d}", SYNTHETIC, x, {TRANSCRIPT: text})


def say_letters(text: str, vocabulary: Sequence[str]) -> str:
    """Write a text so that the synthesizer reads `a` as the letter, where the vocabulary is one for spelling."""
    if sum(len(word) == 1 and word.isalpha() for word in vocabulary) < _SPELLING_LETTERS:
        return text
    return " ".join(_LETTER_A if word in ("a", "A") else word for word in text.split())


def _recorded(
    written: list[tuple[ManifestEntry, dict[str, str]]], config: UtteranceMixingConfig
) -> Iterator[Recording]:
    for entry, texts in written:
        start, end = entry_speech(entry)
        file_end = audio_info(entry.audio_filepath).seconds
        first, last = start, min(file_end if end is None else end, file_end)
        if not config.min_utterance_seconds <= last - first <= config.max_utterance_seconds:
            continue
        if "speech_start" in entry.extra:  # what is around it is the silence of the same recording
            first = max(start - config.margin_seconds, entry.offset)
        if "speech_end" in entry.extra:
            whole = file_end if entry.duration is None else min(entry.offset + entry.duration, file_end)
            whole = max(whole, last)
            last, speech_end = min(last + config.margin_seconds, whole), last
        else:
            speech_end = last
        samples = read_audio(entry.audio_filepath, offset=first, duration=last - first, sample_rate=SAMPLE_RATE)
        lead = round((start - first) * SAMPLE_RATE)
        tail = max(len(samples) - round((speech_end - first) * SAMPLE_RATE), 0)
        yield Recording(str(entry.speaker), str(entry.extra.get("source", "manifest")), samples, texts, lead, tail)
