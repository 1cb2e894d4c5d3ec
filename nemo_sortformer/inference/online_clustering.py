# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Who is who in a stream, by clustering the affinity embeddings heard so far; speakers keep their index.

Each step clusters a bounded sample of the past and the frames that the network has just heard anew, as for a whole
recording, and gives each cluster the index of the known speaker with whom it shares most frames; a cluster that fits
nobody is a new speaker, with the next index. The latest frames are answered at once, and judged again while the
network still hears them, with more of what came after them; then they are settled.
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

SAMPLE_FRAMES = 500
"""Frames of the past that are clustered: each step costs the square of this, and no more as the stream grows."""
SETTLE_FRAMES = 25
"""A frame is settled when so many after it have been heard."""


class Heard(NamedTuple):
    """What the network says about the frames that it has just heard, in order of time."""

    probs: np.ndarray
    """Of the label heads, shape (frames, slots)."""
    embeddings: np.ndarray
    """Unit vectors, shape (frames, dim)."""
    activity: np.ndarray | None
    """Probabilities that at least one, and at least two speak, shape (frames, 2)."""
    num_new: int
    """New frames among them,"""
    num_ahead: int
    """after which come so many of right context;"""
    num_kept: int
    """of those up to the last new one, so many will be heard again."""


class OnlineSpeakers(NamedTuple):
    """Voices of a stream: a value."""

    sample: np.ndarray
    """Averaged embeddings of speech that the network does not hear any more, shape (n, dim), oldest first."""
    owner: np.ndarray
    """Speaker of each of those, shape (n,), int64."""
    centroids: np.ndarray
    """Voices in order of arrival, shape (speakers, dim); zeros for one that turned out to be another's."""
    latest: np.ndarray
    """Speaker of each frame that will be heard again, -1 where there is no clean speech, shape (frames,), int64."""
    num_open: int = 0
    """Answered frames that are not settled."""


def no_speakers(dim: int) -> OnlineSpeakers:
    """Before the first frame."""
    vectors, owners = np.zeros((0, dim), dtype=np.float32), np.zeros(0, dtype=np.int64)
    return OnlineSpeakers(vectors, owners, vectors, owners)


def assign_speakers(
    state: OnlineSpeakers, heard: Heard, config: ClusteringConfig, *, most_speakers: int, last: bool = False
) -> tuple[np.ndarray, np.ndarray, OnlineSpeakers]:
    """Give the speech of the frames heard to the speakers whose voices it has.

    Args:
        state: voices so far; not changed.
        heard: the frames.
        config: as for a whole recording.
        most_speakers: columns of the results.
        last: nothing comes after; all frames are settled.

    Returns:
        Speech probabilities of the frames that are settled now, those of the frames that are not, each of shape
        (frames, most_speakers), a speaker's column the same in all of the stream; and the voices by now.
    """
    present = len(heard.probs) - heard.num_ahead
    probs, activity = heard.probs[:present], heard.activity
    if activity is None:
        speech, overlap = speech_and_overlap(probs)
    else:
        speech, overlap = activity[:present, 0], activity[:present].min(axis=1)
    clean = (speech > config.speech_threshold) & (overlap < 0.5)
    smooth = uniform_filter1d(heard.embeddings.astype(np.float32), config.smooth_frames, axis=0, mode="nearest")
    smooth = unit_vectors(smooth)
    known = np.concatenate([state.latest, np.full(heard.num_new, -1)])
    sample = np.concatenate([state.sample, smooth[:present][clean]])
    owner = np.concatenate([state.owner, known[clean]])
    centroids, owner = _cluster(sample, owner, state.centroids, config, most_speakers)
    result = _probabilities(smooth, speech, overlap, centroids, config, most_speakers)

    latest = np.full(present, -1)
    latest[clean] = owner[len(state.owner) :]
    gone = present - heard.num_kept
    past = np.concatenate([state.sample, smooth[:gone][clean[:gone]]])
    past_owner = owner[: len(past)]
    kept = _thinned(past_owner)
    num_open = state.num_open + heard.num_new
    settled = max(num_open - max(SETTLE_FRAMES - heard.num_ahead, 0), num_open - heard.num_kept, 0)
    settled = num_open if last else settled
    rows = result[present - num_open :]
    state = OnlineSpeakers(past[kept], past_owner[kept], centroids, latest[gone:], num_open - settled)
    return rows[:settled], rows[settled:], state


def _probabilities(
    smooth: np.ndarray,
    speech: np.ndarray,
    overlap: np.ndarray,
    centroids: np.ndarray,
    config: ClusteringConfig,
    most_speakers: int,
) -> np.ndarray:
    """As in `cluster_probabilities`, columns by index of the speaker, shape (frames, most_speakers)."""
    result = np.zeros((len(speech), most_speakers), dtype=np.float32)
    frames, active = np.arange(len(speech)), np.flatnonzero(np.abs(centroids).sum(axis=1))
    if not len(active):
        result[:, 0] = speech
        return result
    posterior = speaker_posterior(smooth, centroids[active], config)[: len(speech)]
    first = posterior.argmax(axis=1)
    answer = speech[:, None] * posterior
    answer[frames, first] = speech
    if config.overlap and len(active) > 1 and len(speech):
        second = second_speaker(answer, first, config.overlap_window_frames)
        answer[frames, second] = np.maximum(answer[frames, second], overlap)
    result[:, active] = answer
    return result


def _cluster(
    sample: np.ndarray, owner: np.ndarray, centroids: np.ndarray, config: ClusteringConfig, most_speakers: int
) -> tuple[np.ndarray, np.ndarray]:
    """The voices in the sample by their indices, and the speaker of each of its frames."""
    if len(sample) < 2:
        return centroids, np.where(owner < 0, 0, owner) if len(centroids) else owner
    found = find_centroids(sample, config, 1, most_speakers)
    found = refine_centroids(found, sample, np.arange(len(sample)), config)
    label = (sample @ found.T).argmax(axis=1)
    index, known = _known_indices(label, len(found), owner, len(centroids), most_speakers)
    result = np.zeros((known, sample.shape[1]), dtype=np.float32)
    result[index] = found
    return result, index[label]


def _known_indices(
    label: np.ndarray, num_clusters: int, owner: np.ndarray, known: int, most_speakers: int
) -> tuple[np.ndarray, int]:
    """The speaker index of each cluster, shape (clusters,), and how many speakers are known now."""
    shared = np.zeros((num_clusters, known))
    old = owner >= 0
    np.add.at(shared, (label[old], owner[old]), 1)
    index = np.full(num_clusters, -1)
    rows, columns = linear_sum_assignment(-shared)
    matched = shared[rows, columns] > 0
    index[rows[matched]] = columns[matched]
    for cluster in np.flatnonzero(index < 0):  # a new speaker: the next index, or one that became free
        free = [k for k in range(most_speakers) if k not in index]
        index[cluster] = min([k for k in free if k >= known] or free)
        known = max(known, int(index[cluster]) + 1)
    return index, known


def _thinned(owner: np.ndarray) -> np.ndarray:
    """Which frames of the sample to keep: of those who have most, every second one."""
    kept = np.arange(len(owner))
    while len(kept) > SAMPLE_FRAMES:
        own = np.flatnonzero(owner[kept] == np.bincount(owner[kept]).argmax())
        kept = np.delete(kept, own[1::2])
    return kept
