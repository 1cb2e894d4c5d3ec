# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Tokens of several text heads of one item, and what they do about bad text."""

import warnings

import pytest

from nemo_sortformer.data.speaker_tokenizer import SpeakerTagError, SpeakerTokenizer
from nemo_sortformer.data.spoken_words import SpokenUtterance, WordsError
from nemo_sortformer.data.text_labels import TextLabeler, UnknownTextWarning
from nemo_sortformer.functional.serialized import Turn

TOLD = [
    SpokenUtterance(0.0, 2.0, "bob", {"words": "good day", "translation": "guten tag"}),
    SpokenUtterance(0.5, 1.0, "ann", {"words": "yes", "translation": ""}),
]


def make(letters, *names, num_slots=3, **options):
    tokenizers = {name: SpeakerTokenizer(letters(), 4) for name in names or ("asr",)}
    return TextLabeler(tokenizers, num_slots, **options)


def test_every_head_has_its_text_at_its_level_in_the_slots_of_the_labels(letters):
    labeler = make(letters, "asr", "ctc", "mt", levels={"ctc": "word"}, fields={"mt": "translation"})
    assert labeler.text_fields == ["words", "translation"]
    texts = labeler(TOLD, ["bob", "ann"])
    turns = {name: labeler.tokenizers[name].decode(label.serialized) for name, label in texts.items()}
    assert turns["asr"] == [Turn(0, "good day"), Turn(1, "yes")]
    assert turns["ctc"] == [Turn(0, "good"), Turn(1, "yes"), Turn(0, "day")]
    assert turns["mt"] == [Turn(0, "guten tag")]
    for name, said in {"asr": ["good day", "yes", ""], "ctc": ["good day", "yes", ""]}.items():
        assert [labeler.tokenizers[name].decode_text(stream) for stream in texts[name].streams] == said
    assert len(texts["mt"].streams) == 3
    assert texts["mt"].streams[1:] == [[], []]


def test_nobody_speaking_is_no_tokens(letters):
    (label,) = make(letters)([], []).values()
    assert label == ([], [[], [], []])


def test_a_window_has_its_own_words(letters):
    labeler = make(letters, levels={"asr": "word"})
    (label,) = labeler(TOLD, ["ann", "bob"], offset=0.6, seconds=0.6).values()
    assert labeler.tokenizers["asr"].decode(label.serialized) == [Turn(0, "yes")]


def test_unknown_characters_are_counted_and_named_once_or_an_error(letters):
    strange = [SpokenUtterance(0, 1, "ann", {"words": "go ж!"})]
    labeler = make(letters)
    with pytest.warns(UnknownTextWarning, match=r"line 3: 2 token\(s\) .* such as ! ж: 'go ж!'"):
        (label,) = labeler(strange, ["ann"], source="line 3").values()
    assert labeler.tokenizers["asr"].decode(label.serialized) == [Turn(0, "go")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labeler(strange, ["ann"])
    assert labeler.num_unknown == 4
    with pytest.raises(WordsError, match=r"line 3: .* set `unknown_text: warn`"):
        make(letters, unknown_text="error")(strange, ["ann"], source="line 3")


def test_a_tag_in_the_text_is_named_with_its_place(letters):
    with pytest.raises(SpeakerTagError, match="line 3: .*`<spk0>`"):
        make(letters)([SpokenUtterance(0, 1, "ann", {"words": "a <spk0>"})], ["ann"], source="line 3")


@pytest.mark.parametrize(
    "options, match",
    [
        ({"num_slots": 5}, "a tag for each of 5 slots, but has 4"),
        ({"levels": {"asrr": "word"}}, "`levels` names `asrr`, but the text heads are `asr`"),
        ({"fields": {"mt": "words"}}, "`fields` names `mt`"),
    ],
)
def test_settings_that_fit_no_head_are_named(letters, options, match):
    with pytest.raises(ValueError, match=match):
        make(letters, **options)
