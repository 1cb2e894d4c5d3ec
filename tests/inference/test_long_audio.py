# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Hours of audio in little memory: slices equal the whole, errors show up at once, the engine takes it as an array."""

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_sortformer.data import audio as audio_module
from nemo_sortformer.data.audio import AudioError, read_audio
from nemo_sortformer.inference import engine
from nemo_sortformer.inference.diarize import diarize_recordings
from nemo_sortformer.inference.long_audio import LongAudio


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch):
    """Blocks of a second, so that short files have many."""
    monkeypatch.setattr(audio_module, "_BLOCK_SECONDS", 1)


@pytest.fixture(scope="module")
def files(tmp_path_factory, make_audio):
    """The same audio at two rates."""
    folder = tmp_path_factory.mktemp("audio")
    for rate in (16000, 11025):
        samples = make_audio(7.3, 2)[: round(7.3 * rate)]
        soundfile.write(folder / f"{rate}.flac", np.stack([samples, 0.5 * samples], axis=1), rate)
    return folder


@settings(max_examples=30)
@given(
    rate=st.sampled_from([16000, 11025]),
    bounds=st.lists(st.tuples(st.integers(0, 120_000), st.integers(0, 60_000)), min_size=1, max_size=6),
    ordered=st.booleans(),
)
def test_slices_are_those_of_the_whole(files, rate, bounds, ordered):
    whole = read_audio(files / f"{rate}.flac")
    long = LongAudio(files / f"{rate}.flac", sample_rate=16000)
    assert len(long) == len(whole)
    for first, length in sorted(bounds) if ordered else bounds:
        np.testing.assert_array_equal(long[first : first + length], whole[first : first + length])


def test_a_stretch_is_that_of_the_file(files):
    part = LongAudio(files / "11025.flac", offset=1.5, duration=2.25, sample_rate=16000)
    np.testing.assert_array_equal(part[:], read_audio(files / "11025.flac", offset=1.5, duration=2.25))
    assert len(np.asarray(part)) == len(part) == 36000


def test_little_is_held(files):
    long = LongAudio(files / "16000.flac", sample_rate=16000)
    for first in range(0, len(long), 8000):
        long[first : first + 12000]
        assert sum(map(len, long._parts)) <= 3 * 16000


def test_what_is_wrong_at_the_end_is_known_at_the_beginning(tmp_path, make_audio):
    samples = make_audio(5.0)
    samples[-100] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"nan\.wav.*NaN"):
        LongAudio(tmp_path / "nan.wav", sample_rate=16000)


@pytest.mark.parametrize("assignment", ["heads", "clustering"])
@pytest.mark.parametrize("workers", [0, 1])
def test_the_engine_gives_the_same_from_a_file_that_is_never_held_whole(
    monkeypatch, tiny_model, wav, assignment, workers
):
    path = wav("long.wav", 50.0)
    options = {
        "override_config": {"assignment": assignment},
        "max_seconds_one_pass": 20.0,
        "overlap_seconds": 4.0,
        "window_seconds": 8.0,
        "context_seconds": 1.0,
        "num_workers": workers,
    }
    from nemo_sortformer.inference import windows

    monkeypatch.setattr(windows, "BLOCK_SECONDS", 20.0)
    (whole,) = diarize_recordings(tiny_model, path, **options)
    opened = []
    monkeypatch.setattr(engine, "BLOCK_SECONDS", 20.0)
    monkeypatch.setattr(LongAudio, "_rewind", lambda self, real=LongAudio._rewind: opened.append(1) or real(self))
    (piecewise,) = diarize_recordings(tiny_model, path, **options)
    assert opened == [1], "read once, forward"
    assert piecewise == whole
    np.testing.assert_array_equal(piecewise.probs, whole.probs)
