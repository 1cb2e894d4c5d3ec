# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Sessions of two speakers for tests of the joint model: words are tones, speakers are another tone beside them."""

import numpy as np
import torch

from nemo_sortformer.data.joint_batch import JointItem, TextLabels, collate_joint
from nemo_sortformer.data.text_tokenizer import train_text_tokenizer
from nemo_sortformer.functional.frames import num_label_frames
from nemo_sortformer.functional.serialized import SpokenWord, per_speaker, serialize

RATE = 16000
WORDS = ("red", "green", "blue", "white", "black")


def make_tokenizer(folder):
    """Train a tokenizer of whole words on the five that there are; its folder."""
    return str(train_text_tokenizer([" ".join(WORDS)] * 3, folder, vocab_size=len(WORDS) + 3, kind="word"))


def session(seed, *, num_words=5, overlap=True):
    """Audio of two speakers who say words, some at once, and the words."""
    rng = np.random.default_rng(seed)
    words, ends = [], [0.2, 0.2]
    for number in range(num_words):
        slot = number if number < 2 else int(rng.integers(2))
        start = ends[slot] if overlap and number > 1 else max(ends)
        start += float(rng.uniform(0.1, 0.3))
        words.append(SpokenWord(WORDS[rng.integers(len(WORDS))], start, start + 0.4, slot))
        ends[slot] = start + 0.4
    audio = 0.003 * rng.standard_normal(round((max(ends) + 0.2) * RATE))
    seconds = np.arange(round(0.4 * RATE)) / RATE
    for word in words:
        pitch, voice = 500 + 350 * WORDS.index(word.text), (180, 3300)[word.speaker]
        sound = np.sin(2 * np.pi * pitch * seconds) + np.sin(2 * np.pi * voice * seconds)
        first = round(word.start * RATE)
        audio[first : first + len(sound)] += 0.1 * sound
    return audio.astype(np.float32), words


def item(audio, words, tokenizers, *, num_slots=3, levels=None):
    """What a data set gives for a session."""
    frames = num_label_frames(len(audio))
    targets = torch.zeros(frames, num_slots)
    for word in words:
        targets[round(word.start / 0.08) : round(word.end / 0.08), word.speaker] = 1
    texts = {}
    for name, tokenizer in tokenizers.items():
        turns = serialize(words, (levels or {}).get(name, "word"), tie_seconds=0.0)
        streams = [tokenizer.encode_text(text) for text in per_speaker(turns, num_slots)]
        texts[name] = TextLabels(tokenizer.encode(turns), streams)
    return JointItem(torch.from_numpy(audio), targets, texts)


def batch(sessions, tokenizers, **options):
    """A batch of sessions, each audio and words."""
    items = [item(*one, tokenizers, **options) for one in sessions]
    return collate_joint(items, pad_ids={name: one.pad_id for name, one in tokenizers.items()})


def texts(words, num_slots=3):
    """All that each slot says."""
    return per_speaker(serialize(words, "word", tie_seconds=0.0), num_slots)
