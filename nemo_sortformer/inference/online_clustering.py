# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Who is who in a stream, by clustering the affinity embeddings heard so far; speakers keep their index.

Each step clusters a bounded sample of the past anew, as for a whole recording, and gives each cluster the index of the
known speaker with whom it shares most frames; a cluster that fits nobody is a new speaker, with the next index.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.ndimage import uniform_filter1d
from scipy.optimize import linear_sum_assignment

from nemo_sortformer.config.inference import ClusteringConfig
from nemo_sortformer.inference.clustering import (
    find_centroids,
    refine_centroids,
    second_speaker,
    speaker_posterior,
    speech_and_overlap,
    unit_vectors,
)

SAMPLE_FRAMES = 600
"""Frames of the past that are clustered: each step costs the square of this, and no more as the stream grows."""


class OnlineSpeakers(NamedTuple):
    """Voices of a stream: a value."""

    recent: np.ndarray
    """Latest embeddings, for averages over time, shape (frames, dim)."""
    sample: np.ndarray
    """Averaged embeddings of speech, shape (n, dim), oldest first."""
    owner: np.ndarray
    """Speaker of each of those, shape (n,), int64."""
    centroids: np.ndarray
    """Voices in order of arrival, shape (speakers, dim); zeros for one that turned out to be another's."""
    result: np.ndarray
    """Latest answers, for who speaks second, shape (frames, most speakers)."""


def no_speakers(dim: int, most_speakers: int) -> OnlineSpeakers:
    """Before the first frame."""
    none = np.zeros((0, dim), dtype=np.float32)
    return OnlineSpeakers(
        none, none, np.zeros(0, dtype=np.int64), none, np.zeros((0, most_speakers), dtype=np.float32)
    )


def assign_speakers(
    state: OnlineSpeakers,
    embeddings: np.ndarray,
    probs: np.ndarray,
    config: ClusteringConfig,
    *,
    activity: np.ndarray | None = None,
) -> tuple[np.ndarray, OnlineSpeakers]:
    """Give the speech of the next frames to the speakers whose voices it has.

    Args:
        state: voices so far; not changed.
        embeddings: unit vectors of the next frames, and of those after them that were heard already, shape
            (frames + ahead, dim).
        probs: speech probabilities of the label heads, shape (frames, slots).
        config: as for a whole recording.
        activity: probabilities that at least one, and at least two speak, shape (frames, 2); those of independent
            slots where None.

    Returns:
        Speech probabilities, shape (frames, most speakers), a speaker's column the same in all of the stream; and the
        voices by now.
    """
    speech, overlap = speech_and_overlap(probs) if activity is None else (activity[:, 0], activity.min(axis=1))
    context = config.smooth_frames // 2 + config.posterior_frames // 2
    window = np.concatenate([state.recent, embeddings.astype(np.float32)])
    new = slice(len(state.recent), len(state.recent) + len(probs))
    smooth = unit_vectors(uniform_filter1d(window, config.smooth_frames, axis=0, mode="nearest"))
    clean = (speech > config.speech_threshold) & (overlap < 0.5)
    most_speakers = state.result.shape[1]
    state = _learn(state, smooth[new][clean], config, most_speakers)
    result = np.zeros((len(probs), most_speakers), dtype=np.float32)
    frames = np.arange(len(probs))
    active = np.flatnonzero(np.abs(state.centroids).sum(axis=1))
    if len(active):
        posterior = speaker_posterior(smooth, state.centroids[active], config)[new]
        first = active[posterior.argmax(axis=1)]
        result[:, active] = speech[:, None] * posterior
    else:
        first = np.zeros(len(probs), dtype=np.int64)
    result[frames, first] = speech
    history = np.concatenate([state.result, result])
    if config.overlap and len(active) > 1:
        before = len(state.result)
        taken = np.concatenate([np.zeros(before, dtype=np.int64), np.searchsorted(active, first)])
        second = active[second_speaker(history[:, active], taken, config.overlap_window_frames)[before:]]
        result[frames, second] = np.maximum(result[frames, second], overlap)
    kept = max(new.stop - context, 0)
    state = state._replace(
        recent=window[kept : new.stop], result=np.concatenate([state.result, result])[-config.overlap_window_frames :]
    )
    return result, state


def _learn(state: OnlineSpeakers, frames: np.ndarray, config: ClusteringConfig, most_speakers: int) -> OnlineSpeakers:
    """Add frames of speech to the sample and cluster it anew."""
    if not len(frames):
        return state
    sample = np.concatenate([state.sample, frames])
    owner = np.concatenate([state.owner, np.full(len(frames), -1)])
    if len(sample) < 2:
        return state._replace(sample=sample, owner=owner)
    found = find_centroids(sample, config, 1, most_speakers)
    found = refine_centroids(found, sample, np.arange(len(sample)), config)
    index, known = _known_indices(found, sample, owner, state.centroids, most_speakers)
    centroids = np.zeros((known, sample.shape[1]), dtype=np.float32)
    centroids[index] = found
    owner = index[(sample @ found.T).argmax(axis=1)]
    kept = _thinned(owner)
    return state._replace(sample=sample[kept], owner=owner[kept], centroids=centroids)


def _known_indices(
    found: np.ndarray, sample: np.ndarray, owner: np.ndarray, centroids: np.ndarray, most_speakers: int
) -> tuple[np.ndarray, int]:
    """The speaker index of each cluster, shape (clusters,), and how many speakers are known now."""
    known = len(centroids)
    label = (sample @ found.T).argmax(axis=1)
    shared = np.zeros((len(found), known))
    old = owner >= 0
    np.add.at(shared, (label[old], owner[old]), 1)
    index = np.full(len(found), -1)
    rows, columns = linear_sum_assignment(-shared)
    matched = shared[rows, columns] > 0
    index[rows[matched]] = columns[matched]
    for cluster in np.flatnonzero(index < 0):  # at most one round per speaker
        free = [k for k in range(min(known + 1, most_speakers)) if k not in index]
        unused = [k for k in free if k == known]
        index[cluster] = unused[0] if unused else free[0]
        known = max(known, index[cluster] + 1)
    return index, known


def _thinned(owner: np.ndarray) -> np.ndarray:
    """Which frames of the sample to keep: of those who have most, every second one."""
    kept = np.arange(len(owner))
    while len(kept) > SAMPLE_FRAMES:
        counts = np.bincount(owner[kept])
        own = np.flatnonzero(owner[kept] == counts.argmax())
        kept = np.delete(kept, own[1::2])
    return kept
