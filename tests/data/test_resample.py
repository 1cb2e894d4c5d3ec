# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Resampling in pieces: the pieces do not show, and tones come out as they went in."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_sortformer.data.resample import resample_piece, start_resampling


def in_pieces(samples, sizes, **rates):
    state, results, first = start_resampling(), [], 0
    for size in [*sizes, len(samples)]:
        found, state = resample_piece(state, samples[first : first + size], **rates)
        results.append(found)
        first += size
    found, state = resample_piece(state, samples[:0], last=True, **rates)
    return np.concatenate([*results, found]), state


@settings(max_examples=25)
@given(
    rate=st.sampled_from([8000, 11025, 22050, 44100, 48000]),
    sizes=st.lists(st.integers(0, 3000), max_size=12),
    count=st.integers(0, 9000),
)
def test_pieces_do_not_show(rate, sizes, count):
    samples = np.random.default_rng(count).standard_normal(count).astype(np.float32)
    pieces, state = in_pieces(samples, sizes, rate_in=rate, rate_out=16000)
    whole, _ = resample_piece(start_resampling(), samples, rate_in=rate, rate_out=16000, last=True)
    np.testing.assert_allclose(pieces, whole, rtol=0, atol=1e-6)
    assert len(pieces) == -(-count * 16000 // rate)
    assert len(state.tail) < 200


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_a_tone_comes_out_as_it_went_in(rate):
    time = np.arange(rate) / rate
    found, _ = in_pieces(np.sin(2 * np.pi * 440 * time).astype(np.float32), [777] * 20, rate_in=rate, rate_out=16000)
    expected = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    np.testing.assert_allclose(found[200:-200], expected[200:-200], atol=1e-4)


def test_what_the_new_rate_cannot_hold_is_taken_out():
    time = np.arange(48000) / 48000
    found, _ = in_pieces(np.sin(2 * np.pi * 12000 * time).astype(np.float32), [], rate_in=48000, rate_out=16000)
    assert np.abs(found[200:-200]).max() < 1e-3


def test_the_same_rate_passes_as_it_is():
    samples = np.ones(5, dtype=np.float32)
    found, _ = resample_piece(start_resampling(), samples, rate_in=16000, rate_out=16000)
    assert found is samples
