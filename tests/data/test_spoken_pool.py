# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Pools of utterances with text: from manifests, with the sound around the speech, and of synthetic speakers."""

import json

import numpy as np
import pytest
import soundfile

from nemo_sortformer.config.utterances import UtteranceMixingConfig
from nemo_sortformer.data.mixing import PoolError, UtteranceMixingDataset, build_spoken_pool
from nemo_sortformer.data.mixing.spoken_pool import say_letters, synthetic_recordings
from nemo_sortformer.data.speaker_tokenizer import SpeakerTokenizer
from nemo_sortformer.data.spoken_words import WordsError
from nemo_sortformer.data.text_labels import TextLabeler

RATE = 16_000


@pytest.fixture
def manifest(tmp_path):
    rng = np.random.default_rng(0)
    lines = [
        {"speaker": "ann", "text": " good  day ", "speech_start": 0.5, "speech_end": 1.5, "source": "a"},
        {"speaker": "ann", "text": "stop", "speech_start": 0.05, "speech_end": 1.95, "source": "a"},
        {"speaker": "bob", "text": "go", "offset": 0.5, "duration": 1.0, "source": "b", "translation": "geh"},
        {"speaker": "bob", "text": None, "source": "b"},
        {"speaker": "cem", "text": "", "source": "b"},
        {"speaker": "cem", "text": "other", "source": "c", "split": "test"},
    ]
    for number, line in enumerate(lines):
        soundfile.write(tmp_path / f"{number}.wav", rng.uniform(-0.1, 0.1, 2 * RATE), RATE)
        line.update(audio_filepath=f"{number}.wav", split=line.get("split", "train"))
    path = tmp_path / "manifest.jsonl"

    def write(*chosen, **changes):
        rows = [{**line, **changes} for line in ([lines[k] for k in chosen] if chosen else lines)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    write()
    return write


def pool(path, fields=("words",), **changes):
    return build_spoken_pool(UtteranceMixingConfig(manifest=path, **changes), fields)


def shapes(found):
    return {
        (speaker.name, one.texts["words"]): (one.count, one.lead, one.tail)
        for speaker in found.speakers
        for one in speaker.utterances
    }


def test_speech_keeps_the_sound_around_it_and_utterances_without_text_are_left_out(manifest):
    with pytest.warns(UserWarning, match="2 of 5 utterances have no text"):
        found = pool(manifest(), split="train")
    assert shapes(found) == {
        ("ann", "good day"): (round(1.4 * RATE), round(0.2 * RATE), round(0.2 * RATE)),
        ("ann", "stop"): (2 * RATE, round(0.05 * RATE), round(0.05 * RATE)),  # no more than the file has
        ("bob", "go"): (RATE, 0, 0),  # what lies around a stretch may be of someone else
    }


def test_sources_and_lengths_are_chosen(manifest):
    assert {speaker.name for speaker in pool(manifest(0, 1, 2), sources=["a"]).speakers} == {"ann"}
    assert {speaker.name for speaker in pool(manifest(0, 1, 2), exclude_sources=["a"]).speakers} == {"bob"}
    assert set(shapes(pool(manifest(0, 1, 2), max_utterance_seconds=1.5))) == {("ann", "good day"), ("bob", "go")}
    assert set(shapes(pool(manifest(0, 1, 2), min_utterance_seconds=1.5))) == {("ann", "stop")}
    assert shapes(pool(manifest(0, 1), margin_seconds=0.0))["ann", "good day"] == (RATE, 0, 0)


def test_further_texts_are_read_under_their_names(manifest):
    (speaker,) = pool(manifest(2), ("words", "translation")).speakers
    assert speaker.utterances[0].texts == {"words": "go", "translation": "geh"}
    with pytest.raises(PoolError, match="no line that is chosen has a text for `words` and `translation`"):
        pool(manifest(0), ("words", "translation"))


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"split": "dev"}, "leave no line"),
        ({"sources": ["an4"]}, r"`sources` \['an4'\]"),
        ({"manifest": None}, "nothing to mix: set `manifest`"),
        ({"manifest": None, "synthetic_speakers": 1}, "need some: give `manifest` or `synthetic_texts`"),
    ],
)
def test_nothing_to_mix_is_named(manifest, changes, match):
    with pytest.raises(PoolError, match=match):
        build_spoken_pool(UtteranceMixingConfig(**{"manifest": manifest(0, 1, 2), **changes}))


def test_wrong_lines_are_named(manifest):
    with pytest.raises(PoolError, match="has no `speaker`"):
        pool(manifest(0, speaker=None))
    with pytest.raises(WordsError, match=r"manifest.jsonl:1: `translation` must be a text in quotes, but is 3"):
        pool(manifest(0, translation=3), ("translation",))


# --- Synthetic speakers

LETTERS = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"]


def test_the_letter_a_is_spelled_where_the_vocabulary_spells():
    assert say_letters("b a five", [*LETTERS, "five"]) == "b eigh five"
    assert say_letters("a snack", ["a", "snack"]) == "a snack"


def test_synthetic_speakers_say_texts_and_their_words_in_random_order():
    pytest.importorskip("espeakng_loader")
    texts = ["go on", "stop there now", "nine"]
    config = UtteranceMixingConfig(synthetic_speakers=2, synthetic_utterances=12, synthetic_word_share=0.5)
    made = list(synthetic_recordings(config, texts))
    assert {one.speaker for one in made} == {"synthetic00000", "synthetic00001"}
    said = [one.texts["words"] for one in made]
    vocabulary = {word for text in texts for word in text.split()}
    assert {word for text in said for word in text.split()} <= vocabulary
    assert 0 < sum(text in texts for text in said) < len(said)
    again = list(synthetic_recordings(UtteranceMixingConfig(synthetic_speakers=1, synthetic_utterances=12), texts))
    assert all(np.array_equal(a.samples, b.samples) for a, b in zip(made, again))
    mixed = build_spoken_pool(UtteranceMixingConfig(synthetic_speakers=2, synthetic_texts=["go", "a b"]))
    assert len(mixed) == 2
    with pytest.raises(PoolError, match="no other text than `words`"):
        build_spoken_pool(UtteranceMixingConfig(synthetic_speakers=1, synthetic_texts=["go"]), ["words", "mt"])


# --- Recorded speech


def test_real_utterances_mix_with_their_transcripts(speech_data, letters):
    config = UtteranceMixingConfig(
        manifest=str(speech_data / "pool" / "manifest.jsonl"), split="test", sources=["an4"], sessions_per_epoch=8
    )
    found = build_spoken_pool(config)
    assert len(found) == 10
    texts = {one.texts["words"] for speaker in found.speakers for one in speaker.utterances}
    tokenizer = SpeakerTokenizer(letters(), 4)
    data = UtteranceMixingDataset(config, TextLabeler({"asr": tokenizer}, 4), pool=found)
    for item in data:
        turns = tokenizer.decode(item.texts["asr"].serialized)
        assert {turn.text for turn in turns} <= texts
        assert {turn.speaker for turn in turns} == set(range(int(item.targets.any(0).sum())))
        assert np.isfinite(item.audio.numpy()).all()
