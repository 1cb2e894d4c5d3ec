# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Voices in a stream: speakers are found as they arrive, keep their index, and cost no more as time goes on."""

import numpy as np
import pytest

from nemo_sortformer.config.inference import ClusteringConfig
from nemo_sortformer.inference.online_clustering import SAMPLE_FRAMES, Heard, assign_speakers, no_speakers

CONFIG = ClusteringConfig(smooth_frames=3, posterior_frames=3, min_frames=5, overlap=False)
QUEUE = 30


def play(turns, *, config=CONFIG, most_speakers=4, step=6, ahead=2, noise=0.1, seed=0):
    """Run voices in turns, (speaker or None, frames), through the clustering as a stream would.

    Returns:
        Answers given at once and settled ones, each (frames, speakers), the true speaker of each frame, the states.
    """
    rng = np.random.default_rng(seed)
    voices = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    truth = np.concatenate([np.full(frames, -1 if who is None else who) for who, frames in turns])
    embeddings = voices[truth] + noise * rng.standard_normal((len(truth), 8))
    embeddings = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32)
    speech = np.where(truth < 0, 0.02, 0.98)
    probs = np.stack([speech, 0 * speech], axis=1)
    state, queue = no_speakers(8), 0
    first, settled, states = [], [], []
    for start in range(0, len(truth), step):
        new = min(step, len(truth) - start)
        later = min(ahead, len(truth) - start - new)
        kept = queue + new if queue + new <= QUEUE else queue + new - 12
        rows = slice(start - queue, start + new + later)
        heard = Heard(probs[rows], embeddings[rows], None, new, later, kept)
        last = start + new == len(truth)
        done, still_open, state = assign_speakers(state, heard, config, most_speakers=most_speakers, last=last)
        settled.append(done)
        first.append(np.concatenate([done, still_open])[len(done) + len(still_open) - new :])
        states.append(state)
        queue = kept
    return np.concatenate(first), np.concatenate(settled), truth, states


def wrong(answers, truth):
    """Share of the frames with speech that are given to another index than the true one."""
    spoken = truth >= 0
    return (answers[spoken].argmax(axis=1) != truth[spoken]).mean()


def test_speakers_are_numbered_as_they_arrive_and_keep_their_number():
    turns = [(0, 40), (1, 40), (0, 20), (2, 50), (None, 60), (1, 30), (0, 30), (2, 20)]
    first, settled, truth, _ = play(turns)
    assert wrong(settled, truth) < 0.1
    assert wrong(first, truth) < 0.15
    assert wrong(settled[-140:], truth[-140:]) == 0  # all are known by then
    assert first.shape == settled.shape == (len(truth), 4)
    assert (settled.max(axis=1)[truth < 0] < 0.1).all()
    np.testing.assert_allclose(settled.max(axis=1)[truth >= 0], 0.98, atol=1e-2)


def test_a_speaker_is_known_again_after_a_long_time():
    turns = [(0, 60), (1, 60), *[(k % 2 + 2, 50) for k in range(30)], (1, 40), (0, 40)]
    _, settled, truth, _ = play(turns)
    assert wrong(settled[-80:], truth[-80:]) == 0


def test_what_is_kept_does_not_grow():
    _, _, _, states = play([(k % 3, 40) for k in range(60)])
    sizes = [len(state.sample) for state in states]
    assert max(sizes) <= SAMPLE_FRAMES
    counts = np.bincount(states[-1].owner)
    assert counts.min() > SAMPLE_FRAMES / 12  # none is crowded out
    assert max(len(state.latest) for state in states) <= QUEUE


def test_no_more_speakers_than_allowed():
    first, settled, _, states = play([(k % 5, 40) for k in range(15)], most_speakers=3)
    assert settled.shape[1] == 3
    assert len(states[-1].centroids) == 3
    np.testing.assert_allclose(settled.max(axis=1), 0.98, atol=1e-2)  # their speech is not lost


def test_overlap_gets_a_second_speaker():
    config = ClusteringConfig(smooth_frames=3, posterior_frames=3, min_frames=5)
    rng = np.random.default_rng(1)
    voices = np.linalg.qr(rng.standard_normal((4, 4)))[0].astype(np.float32)
    who = np.repeat([0, 1, 0], 20)
    probs = np.tile([0.95, 0.02], (60, 1))
    probs[35:45, 1] = 0.9  # around the second change both speak
    heard = Heard(probs, voices[who], None, 60, 0, 0)
    settled, _, _ = assign_speakers(no_speakers(4), heard, config, most_speakers=3, last=True)
    assert (settled[36:44, :2] > 0.5).all()
    assert (settled[:30] > 0.5).sum(axis=1).max() == 1


def test_the_activity_head_says_when_there_is_speech():
    probs, embeddings = np.full((20, 2), 0.9), np.tile([1.0, 0.0], (20, 1))
    activity = np.zeros((20, 2))
    heard = Heard(probs, embeddings, activity, 20, 0, 0)
    settled, _, _ = assign_speakers(no_speakers(2), heard, CONFIG, most_speakers=2, last=True)
    assert settled.max() < 0.01


@pytest.mark.parametrize("frames", [0, 1, 2])
def test_hardly_any_frames(frames):
    heard = Heard(np.full((frames, 2), 0.9), np.tile([1.0, 0.0], (frames, 1)), None, frames, 0, 0)
    settled, still_open, _ = assign_speakers(no_speakers(2), heard, CONFIG, most_speakers=2, last=True)
    assert settled.shape == (frames, 2)
    assert len(still_open) == 0
