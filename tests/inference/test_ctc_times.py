# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Times of CTC words: the frames of the best path, whatever NeMo makes of them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_sortformer.inference.ctc_times import corrected_words, token_frames

LETTERS = [" ", "a", "b", "c"]
BLANK = len(LETTERS)


@given(path=st.lists(st.integers(0, 3), max_size=30))
def test_tokens_are_the_runs_that_are_not_blank(path):
    expected, t = [], 0
    while t < len(path):
        end = t
        while end < len(path) and path[end] == path[t]:
            end += 1
        if path[t] != 3:
            expected.append([t, end])
        t = end
    assert token_frames(np.array(path, dtype=int), 3).tolist() == expected


def decoded(path):
    """What NeMo's greedy CTC decoding with times says of a best path."""
    from nemo.collections.asr.parts.submodules.ctc_decoding import CTCDecoding, CTCDecodingConfig
    from omegaconf import OmegaConf

    config = OmegaConf.structured(CTCDecodingConfig(strategy="greedy", compute_timestamps=True))
    decoding = CTCDecoding(config, vocabulary=LETTERS)
    log_probs = torch.full((1, len(path), BLANK + 1), -9.0)
    log_probs[0, torch.arange(len(path)), torch.tensor(path)] = 0.0
    lengths = torch.tensor([len(path)])
    [found] = decoding.ctc_decoder_predictions_tensor(log_probs, decoder_lengths=lengths, return_hypotheses=True)
    return found


def path_of(text: str) -> list[int]:
    return [BLANK if letter == "-" else LETTERS.index(letter) for letter in text]


def test_a_word_after_a_pause_begins_behind_the_pause():
    found = decoded(path_of("--ab-bb-----" + "--- ------cca---"))
    assert found.text == "abb ca"
    rows = corrected_words(found, BLANK, 0.1)
    assert [(row["word"], round(row["start"], 1), round(row["end"], 1)) for row in rows] == [
        ("abb", 0.2, 0.7),
        ("ca", 2.2, 2.5),
    ]
    theirs = found.timestamp["word"][1]["start_offset"]
    assert theirs == 15, "the reason for our own times: NeMo starts the word where the blank before it is"


@settings(max_examples=30)
@given(words=st.lists(st.tuples(st.text("abc", min_size=1, max_size=4), st.integers(1, 5)), min_size=1, max_size=5))
def test_every_word_has_the_frames_of_its_letters(words):
    path, expected = "", []
    for text, gap in words:
        path += "-" * gap + ("-" if path else "")
        if expected:
            path += " -"
        start = len(path)
        path += "-".join(text)
        expected.append((text, start, len(path)))
    rows = corrected_words(decoded(path_of(path)), BLANK, 1.0)
    assert [(row["word"], row["start"], row["end"]) for row in rows] == expected


@pytest.mark.parametrize("change", ["path", "words"])
def test_a_hypothesis_of_another_form_is_left_alone(change):
    found = decoded(path_of("-a--b-"))
    if change == "path":
        found.y_sequence = torch.tensor(path_of("a---------"))
    else:
        found.timestamp["word"] = []
    assert corrected_words(found, BLANK, 0.1) is None
