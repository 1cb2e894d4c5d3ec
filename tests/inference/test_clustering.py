# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Clustering names the speakers: the truth where voices are apart, and the limits, whatever the embedding space."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_sortformer.config.inference import ClusteringConfig
from nemo_sortformer.config.merge import ConfigError
from nemo_sortformer.inference.clustering import (
    cluster_probabilities,
    refine_centroids,
    speaker_posterior,
    speech_and_overlap,
)

SHORT = ClusteringConfig(smooth_frames=3, posterior_frames=3, min_frames=5)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def conversation(speakers, frames=600, *, seed=0, noise=0.3, overlap=True, slots=4, turn=30, dim=32):
    """Truth (frames, speakers) in order of arrival, embeddings and head probabilities of it; turns of 30 frames.

    The last frames of every other turn are overlap, whose embedding is the mean of two; then comes a pause. The heads
    hear speech and overlap, but each turn in other slots: only the embeddings say who it is.
    """
    rng = np.random.default_rng(seed)
    voices = np.linalg.qr(rng.standard_normal((dim, dim)))[0][:speakers]
    truth = np.zeros((frames, speakers), bool)
    probs = np.full((frames, slots), 0.02)
    for number, start in enumerate(range(5, frames - turn, turn)):
        speaker = number % speakers if number < speakers else int(rng.integers(speakers))
        end = start + turn - int(rng.integers(2, 6))
        slot, other_slot = rng.permutation(slots)[:2]
        truth[start:end, speaker] = True
        probs[start:end, slot] = 0.98
        if overlap and number % 2 and speakers > 1:
            other = int(np.flatnonzero(truth[:start].any(axis=0) & (np.arange(speakers) != speaker))[-1])
            other = next(
                (k for k in np.argsort(-truth[max(start - 12, 0) : start].sum(axis=0)) if k != speaker), other
            )
            truth[start : start + 6, other] = True
            probs[start : start + 6, other_slot] = 0.97
    embeddings = unit(truth @ voices + noise * rng.standard_normal((frames, dim)) / np.sqrt(dim) + 1e-6)
    return truth, embeddings.astype(np.float32), probs.astype(np.float32)


def num_heard(probs):
    return int((probs > 0.5).any(axis=0).sum())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("speakers", [1, 2, 3, 4])
def test_voices_that_are_apart_give_back_the_truth(speakers, seed):
    truth, embeddings, probs = conversation(speakers, seed=seed)
    found = cluster_probabilities(embeddings, probs, SHORT) > 0.5
    assert found.shape[1] == speakers
    alone = truth.sum(axis=1) <= 1
    assert (found[alone] == truth[alone]).mean() > 0.99
    both = truth.sum(axis=1) == 2
    assert both.any() == (speakers > 1)
    assert (found[both].sum(axis=1) == 2).all()
    assert (found[both] == truth[both]).sum() >= 0.9 * truth[both].size


def test_without_overlap_nobody_speaks_beside_another():
    truth, embeddings, probs = conversation(3)
    config = ClusteringConfig(smooth_frames=3, posterior_frames=3, min_frames=5, overlap=False)
    found = cluster_probabilities(embeddings, probs, config) > 0.5
    assert (found.sum(axis=1) == truth.any(axis=1)).mean() > 0.995


@given(seed=st.integers(0, 500), shuffle=st.permutations(range(4)))
def test_neither_rotations_of_the_space_nor_the_order_of_the_slots_matter(seed, shuffle):
    truth, embeddings, probs = conversation(1 + seed % 4, frames=300, seed=seed, noise=0.5)
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.standard_normal((32, 32)))[0].astype(np.float32)
    expected = cluster_probabilities(embeddings, probs, SHORT)
    np.testing.assert_allclose(cluster_probabilities(embeddings @ rotation, probs, SHORT), expected, atol=1e-4)
    np.testing.assert_allclose(cluster_probabilities(embeddings, probs[:, shuffle], SHORT), expected, atol=1e-4)


@given(seed=st.integers(0, 500))
def test_no_speech_is_lost_or_invented_and_columns_come_as_they_arrive(seed):
    rng = np.random.default_rng(seed)
    frames, slots = int(rng.integers(1, 120)), int(rng.integers(1, 6))
    embeddings = unit(rng.standard_normal((frames, 8)))
    probs = rng.random((frames, slots)) ** 2
    found = cluster_probabilities(embeddings, probs, SHORT)
    assert found.dtype == np.float32
    speech, overlap = speech_and_overlap(probs)
    np.testing.assert_allclose(found.max(axis=1), speech, atol=1e-6)
    if found.shape[1] > 1:
        assert (np.sort(found, axis=1)[:, -2] >= overlap - 1e-6).all()
    active = found > 0.5
    arrival = np.where(active.any(axis=0), active.argmax(axis=0), frames)
    assert (np.diff(arrival) >= 0).all()


@pytest.mark.parametrize("wanted", [1, 2, 3, 5, 6])
def test_the_number_of_speakers_is_met_also_beyond_the_slots(wanted):
    _, embeddings, probs = conversation(6, frames=1200, slots=3)
    assert num_heard(cluster_probabilities(embeddings, probs, SHORT, num_speakers=wanted)) == wanted
    assert num_heard(cluster_probabilities(embeddings, probs, SHORT, max_speakers=wanted)) == wanted
    many = cluster_probabilities(embeddings, probs, SHORT, min_speakers=wanted, max_speakers=8)
    assert num_heard(many) == 6


def test_without_limits_there_are_as_many_speakers_as_slots_at_most():
    _, embeddings, probs = conversation(6, frames=1200, slots=3)
    assert num_heard(cluster_probabilities(embeddings, probs, SHORT)) == 3
    config = ClusteringConfig(smooth_frames=3, posterior_frames=3, min_frames=5, max_speakers=5)
    assert num_heard(cluster_probabilities(embeddings, probs, config)) == 5
    assert num_heard(cluster_probabilities(embeddings, probs, config, min_speakers=6)) == 6


@pytest.mark.parametrize("limits", [{"num_speakers": 3}, {"min_speakers": 3}])
def test_more_speakers_than_voices_are_found_where_they_are_demanded(limits):
    _, embeddings, probs = conversation(2, frames=900, noise=0.6)
    assert num_heard(cluster_probabilities(embeddings, probs, SHORT)) == 2
    assert num_heard(cluster_probabilities(embeddings, probs, SHORT, **limits)) == 3


def test_a_known_number_is_met_in_a_short_recording():
    _, embeddings, probs = conversation(2, frames=40, turn=12)
    config = ClusteringConfig(smooth_frames=3, posterior_frames=3, min_frames=50)
    assert num_heard(cluster_probabilities(embeddings, probs, config)) == 1, "no cluster is large enough"
    assert num_heard(cluster_probabilities(embeddings, probs, config, num_speakers=2)) == 2


def test_halves_of_one_speaker_do_not_crowd_out_another():
    rng = np.random.default_rng(0)
    voices = unit(np.array([[1.0, 0.4, 0.0], [1.0, -0.4, 0.0], [0.0, 0.0, 1.0]]))  # two moods of one, and another
    which = np.repeat([0, 1, 2, 0, 1], [60, 60, 40, 60, 60])
    embeddings = unit(voices[which] + 0.05 * rng.standard_normal((280, 3)))
    config = ClusteringConfig(smooth_frames=1, posterior_frames=3, threshold=0.8)
    probs = np.full((280, 4), 0.01)
    probs[:, 0] = 0.99
    found = cluster_probabilities(embeddings, probs, config, num_speakers=2) > 0.5
    assert (found[:, 1] == (which == 2)).mean() > 0.98


def test_a_small_cluster_is_nobody():
    truth, embeddings, probs = conversation(2, overlap=False)
    strange = unit(np.eye(32)[31] + 0.01)
    embeddings[100:108] = strange
    probs[100:108] = [0.01, 0.99, 0.01, 0.01]
    few = cluster_probabilities(embeddings, probs, ClusteringConfig(smooth_frames=1, posterior_frames=1, min_frames=9))
    many = cluster_probabilities(
        embeddings, probs, ClusteringConfig(smooth_frames=1, posterior_frames=1, min_frames=8)
    )
    assert (few.shape[1], many.shape[1]) == (2, 3)


@pytest.mark.parametrize("limits", [{}, {"num_speakers": 3}, {"min_speakers": 2, "max_speakers": 5}])
@pytest.mark.parametrize("frames", [0, 1, 2, 3, 50])
def test_silence_stays_silent_and_short_speech_is_kept(frames, limits):
    rng = np.random.default_rng(1)
    embeddings = unit(rng.standard_normal((frames, 8)))
    silent = cluster_probabilities(embeddings, np.full((frames, 4), 0.01), SHORT, **limits)
    assert len(silent) == frames
    assert not (silent > 0.05).any()
    spoken = np.full((frames, 4), 0.01)
    spoken[:, 2] = 0.9
    found = cluster_probabilities(embeddings, spoken, SHORT, **limits)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.max(axis=1, initial=0), speech_and_overlap(spoken)[0], atol=1e-6)


def test_two_who_never_speak_one_by_one_are_two():
    rng = np.random.default_rng(0)
    embeddings = unit(np.eye(8)[0] + 0.1 * rng.standard_normal((60, 8)))
    found = cluster_probabilities(embeddings, np.full((60, 2), 0.95), SHORT, num_speakers=2)
    assert found.shape == (60, 2)
    assert (found > 0.5).all()


def test_the_second_speaker_is_whoever_speaks_around():
    voices = np.eye(4)
    which = np.repeat([2, 0, 1, 0, 1], 30)
    embeddings, probs = voices[which], np.full((150, 4), 0.01)
    probs[:, 0] = 0.99
    probs[100:105, 1] = 0.99  # amid the turn of the first; the voice is a bit like that of the third
    embeddings[100:105] = unit(voices[0] + 0.2 * voices[2] + 0.1 * voices[1])
    config = ClusteringConfig(smooth_frames=1, posterior_frames=1, overlap_window_frames=51)
    found = cluster_probabilities(embeddings, probs, config) > 0.5
    assert found[102].tolist() == [False, True, True], "the columns are the voices 2, 0, 1"


def test_clusters_that_split_together_do_not_exceed_what_is_demanded():
    embeddings, probs = np.eye(3)[np.repeat([0, 1, 2], 30)], np.full((90, 4), 0.01)
    probs[:, 0] = 0.99
    config = ClusteringConfig(smooth_frames=1, posterior_frames=1, threshold=-0.5)
    assert cluster_probabilities(embeddings, probs, config).shape[1] == 1
    assert cluster_probabilities(embeddings, probs, config, min_speakers=2).shape[1] == 2


def test_a_centroid_that_attracts_nobody_stays():
    config = ClusteringConfig(sharpness=1000.0, posterior_frames=1)
    smooth = np.tile(np.array([[1.0, 0.0]], np.float32), (9, 1))
    np.testing.assert_allclose(refine_centroids(np.eye(2, dtype=np.float32), smooth, np.arange(9), config), np.eye(2))


@pytest.mark.parametrize("embedding", [np.zeros(8), np.eye(8)[0]], ids=["zeros", "all equal"])
@pytest.mark.parametrize("limits", [{}, {"num_speakers": 3}])
def test_embeddings_that_say_nothing_give_numbers(embedding, limits):
    embeddings = np.tile(embedding, (40, 1))
    found = cluster_probabilities(embeddings, np.full((40, 4), 0.4), SHORT, **limits)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.max(axis=1), 1 - 0.6**4, atol=1e-6)


def test_opposite_neighbours_whose_mean_is_nothing_give_numbers():
    embeddings = np.tile(np.array([[1.0, 0.0], [-1.0, 0.0]]), (30, 1))
    config = ClusteringConfig(smooth_frames=3, threshold=0.9, sharpness=1000.0)
    assert np.isfinite(cluster_probabilities(embeddings, np.full((60, 2), 0.7), config, num_speakers=4)).all()


def test_what_is_no_number_or_does_not_fit_is_refused():
    embeddings, probs = np.ones((4, 3)), np.full((4, 2), 0.9)
    with pytest.raises(ValueError, match="`embeddings` must be numbers"):
        cluster_probabilities(np.where(np.arange(4)[:, None] == 2, np.nan, embeddings), probs)
    with pytest.raises(ValueError, match="`probs` must be numbers"):
        cluster_probabilities(embeddings, np.where(np.arange(4)[:, None] == 2, np.inf, probs))
    with pytest.raises(ValueError, match=r"\(4, 3\) and \(3, 2\)"):
        cluster_probabilities(embeddings, probs[:3])


def test_speech_and_overlap_by_hand():
    probs = np.array(
        [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.5, 0.5, 0.5], [0.8, 0.1, 0.0]]
    )
    speech, overlap = speech_and_overlap(probs)
    np.testing.assert_allclose(speech, [0, 1, 1, 1, 0.875, 0.82], atol=1e-12)
    np.testing.assert_allclose(overlap, [0, 0, 1, 1, 0.5, 0.08], atol=1e-12)
    alone = speech_and_overlap(np.array([[0.7], [0.1]]))
    np.testing.assert_allclose(alone, [[0.7, 0.1], [0.0, 0.0]], atol=1e-12)


@given(seed=st.integers(0, 200), slots=st.integers(1, 5))
def test_speech_and_overlap_are_those_of_independent_slots(seed, slots):
    probs = np.random.default_rng(seed).random((3, slots))
    speech, overlap = np.zeros(3), np.zeros(3)
    for case in np.ndindex(*[2] * slots):
        weight = np.prod(np.where(case, probs, 1 - probs), axis=1)
        speech += weight * (sum(case) >= 1)
        overlap += weight * (sum(case) >= 2)
    np.testing.assert_allclose(speech_and_overlap(probs), (speech, overlap), atol=1e-12)


def test_the_posterior_by_hand():
    config = ClusteringConfig(sharpness=2.0, posterior_frames=1)
    found = speaker_posterior(np.array([[1.0, 0.0], [0.6, 0.8]]), np.eye(2), config)
    np.testing.assert_allclose(found[0], np.exp([2.0, 0.0]) / np.exp([2.0, 0.0]).sum())
    np.testing.assert_allclose(found[1], np.exp([1.2, 1.6]) / np.exp([1.2, 1.6]).sum())
    averaged = ClusteringConfig(sharpness=3.0, posterior_frames=3)
    found = speaker_posterior(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), np.eye(2), averaged)
    np.testing.assert_allclose(found[:, 0], 1 / (1 + np.exp([-3.0, -1.0, 1.0, 3.0])))


@pytest.mark.parametrize("most", [200, 400, 900])
def test_clustering_by_fewer_frames_changes_little(most):
    truth, embeddings, probs = conversation(4, frames=3000)
    config = ClusteringConfig(smooth_frames=3, posterior_frames=3, min_frames=20, max_clustered_frames=most)
    found = cluster_probabilities(embeddings, probs, config) > 0.5
    whole = cluster_probabilities(
        embeddings, probs, ClusteringConfig(smooth_frames=3, posterior_frames=3, min_frames=20)
    )
    assert found.shape == whole.shape
    assert (found == (whole > 0.5)).mean() > 0.998


def test_an_hour_takes_bounded_memory():
    truth, embeddings, probs = conversation(4, frames=45000, dim=64)
    tracemalloc.start()
    try:
        found = cluster_probabilities(embeddings, probs, ClusteringConfig()) > 0.5
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * 4000**2 * 8  # the distances of the frames that are clustered, and little else
    alone = truth.sum(axis=1) <= 1
    assert (found[alone] == truth[alone]).mean() > 0.97


def test_an_even_window_is_refused():
    for name in ("smooth_frames", "posterior_frames", "overlap_window_frames"):
        with pytest.raises(ConfigError, match=f"`{name}` must be odd"):
            ClusteringConfig(**{name: 4})


def test_an_activity_head_is_believed_where_the_slots_are_unsure():
    truth, embeddings, _ = conversation(3, noise=0.1)
    unsure = np.full((len(truth), 4), 0.2, np.float32)  # by themselves: speech everywhere, overlap nowhere
    count = truth.sum(axis=1)
    activity = np.stack([count >= 1, count >= 2], axis=1).astype(np.float32)
    found = cluster_probabilities(embeddings, unsure, SHORT, activity=activity) > 0.5
    np.testing.assert_array_equal(found.any(axis=1), count >= 1)
    np.testing.assert_array_equal(found.sum(axis=1) >= 2, count >= 2)
    assert (found == truth).mean() > 0.97
