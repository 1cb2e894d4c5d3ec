# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Order of arrival, limits on the number of speakers, and clustering's place."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_sortformer.config.inference import InferenceConfig
from nemo_sortformer.config.merge import ConfigError
from nemo_sortformer.data.segment import Segment
from nemo_sortformer.inference.assign import (
    SpeakerLimits,
    check_limits,
    find_segments,
    keep_loudest,
    named_segments,
    order_of_arrival,
    prune_phantoms,
    speaker_probs,
)
from nemo_sortformer.inference.windows import Outputs

HEADS = InferenceConfig()


def segments_of(probs, **options):
    columns = find_segments(
        np.asarray(probs, np.float32), InferenceConfig(**options), frame_seconds=0.1, max_seconds=9
    )
    order = order_of_arrival(columns)
    return named_segments(columns, order), order


def test_speakers_are_numbered_as_they_arrive():
    segments, order = segments_of([[0, 0, 0.9], [0.9, 0, 0.9], [0.9, 0, 0]])
    assert segments == (Segment(0.0, 0.2, "speaker_0"), Segment(0.1, 0.3, "speaker_1"))
    assert order == [2, 0, 1], "the silent column comes last"


def test_of_those_that_begin_together_the_longer_speech_comes_first():
    segments, order = segments_of([[0.9, 0.9], [0, 0.9]])
    assert order == [1, 0]
    assert segments == (Segment(0.0, 0.2, "speaker_0"), Segment(0.0, 0.1, "speaker_1"))


@given(seed=st.integers(0, 300), shuffle=st.permutations(range(4)))
def test_segments_do_not_depend_on_the_order_of_the_columns(seed, shuffle):
    probs = np.random.default_rng(seed).random((40, 4))
    columns = [tuple(map(tuple, c)) for c in find_segments(probs, HEADS, frame_seconds=0.1, max_seconds=9)]
    if len({(c[0][0], sum(e - s for s, e in c)) for c in columns if c}) == 4:  # no ties of both keys
        assert segments_of(probs)[0] == segments_of(probs[:, list(shuffle)])[0]


def test_times_are_those_of_the_file():
    columns = find_segments(np.ones((3, 1), np.float32), HEADS, frame_seconds=0.08, max_seconds=0.2)
    assert named_segments(columns, [0], offset=60.0) == (Segment(60.0, 60.2, "speaker_0"),)


def test_the_loudest_stay_and_take_over_the_speech_of_the_others():
    probs = np.array([[0.9, 0.1, 0.0], [0.8, 0.0, 0.6], [0.1, 0.2, 0.9], [0.9, 0.9, 0.0]])
    kept = keep_loudest(probs, 1)
    np.testing.assert_allclose(kept, [[0.9, 0, 0], [0.8, 0, 0], [0.9, 0, 0], [0.9, 0, 0]])
    two = keep_loudest(probs, 2)
    assert (two[:, 1] == 0).all()
    np.testing.assert_allclose(two.max(axis=1), probs.max(axis=1)), "no speech is lost"


def test_num_speakers_limits_the_heads():
    outputs = Outputs(np.random.default_rng(0).random((100, 4), dtype=np.float32), None)
    for limits in (SpeakerLimits(num_speakers=2), SpeakerLimits(max_speakers=2)):
        assert (speaker_probs(outputs, HEADS, limits) > 0).any(axis=0).sum() == 2
    np.testing.assert_array_equal(speaker_probs(outputs, HEADS, SpeakerLimits(max_speakers=4)), outputs.probs)


@pytest.mark.parametrize(
    "limits, message",
    [
        ({"num_speakers": 0}, "num_speakers.*at least 1"),
        ({"num_speakers": 2, "max_speakers": 3}, "fixes the number"),
        ({"min_speakers": 3, "max_speakers": 2}, "at most"),
    ],
)
def test_limits_that_contradict(limits, message):
    with pytest.raises(ConfigError, match=message):
        SpeakerLimits(**limits)


def test_more_speakers_than_slots_cannot_be_asked_of_the_heads():
    with pytest.raises(ConfigError, match="at most 4.*5.*clustering"):
        check_limits(SpeakerLimits(num_speakers=5), HEADS, num_slots=4)
    check_limits(SpeakerLimits(num_speakers=5), InferenceConfig(assignment="clustering"), num_slots=4)
    check_limits(SpeakerLimits(max_speakers=5), HEADS, num_slots=4)


def test_the_median_filter_removes_single_frames():
    probs = np.zeros((20, 1), np.float32)
    probs[5], probs[10:15] = 1.0, 1.0
    smooth = speaker_probs(Outputs(probs, None), InferenceConfig(median_frames=3), SpeakerLimits())
    assert np.flatnonzero(smooth[:, 0]).tolist() == [10, 11, 12, 13, 14]


def test_clustering_without_embeddings_is_an_error():
    outputs = Outputs(np.zeros((5, 4), np.float32), None)
    with pytest.raises(ConfigError, match="embeddings"):
        speaker_probs(outputs, InferenceConfig(assignment="clustering"), SpeakerLimits())


PHANTOM = np.zeros((100, 3), np.float32)
PHANTOM[:60, 0] = 0.9
PHANTOM[55:58, 1] = 0.8  # 0.3 s, beside somebody
PHANTOM[70:74, 1] = 0.8  # 0.4 s alone
PHANTOM[80:, 2] = 0.95
PHANTOM[70:74, 2] = 0.2


def test_a_phantom_is_pruned_and_its_speech_goes_to_the_likeliest():
    config = InferenceConfig(min_speaker_seconds=1.0)
    pruned = prune_phantoms(PHANTOM, config, SpeakerLimits(), frame_seconds=0.1)
    assert (pruned[:, 1] == 0).all()
    np.testing.assert_array_equal(pruned[70:74, 2], np.float32(0.8))
    np.testing.assert_array_equal(pruned[:70, 0], PHANTOM[:70, 0])
    np.testing.assert_array_equal(pruned.max(axis=1), PHANTOM.max(axis=1), "no speech is lost")
    assert prune_phantoms(PHANTOM, InferenceConfig(), SpeakerLimits(), frame_seconds=0.1) is PHANTOM
    exactly = InferenceConfig(min_speaker_seconds=0.7)
    assert prune_phantoms(PHANTOM, exactly, SpeakerLimits(), frame_seconds=0.1) is PHANTOM


@pytest.mark.parametrize("limits", [{"min_speakers": 3}, {"num_speakers": 3}])
def test_who_is_asked_for_is_no_phantom(limits):
    config = InferenceConfig(min_speaker_seconds=1.0)
    assert prune_phantoms(PHANTOM, config, SpeakerLimits(**limits), frame_seconds=0.1) is PHANTOM


def test_the_only_speaker_of_a_short_recording_stays():
    config = InferenceConfig(min_speaker_seconds=60.0)
    pruned = prune_phantoms(PHANTOM, config, SpeakerLimits(), frame_seconds=0.1)
    assert (pruned > 0.5).any(axis=0).tolist() == [True, False, False]
    assert prune_phantoms(PHANTOM[:0], config, SpeakerLimits(), frame_seconds=0.1).shape == (0, 3)
    with pytest.raises(ConfigError, match="min_speaker_seconds"):
        InferenceConfig(min_speaker_seconds=-1.0)
