# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Who is who by clustering the affinity embeddings; when somebody speaks, and when two do, by the label heads.

The embeddings of a network tell speakers apart long before its heads have learnt which column is whose, and they do so
across windows and beyond the number of slots. The heads know best when there is speech and when it overlaps.
"""

from __future__ import annotations

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.ndimage import uniform_filter1d

from nemo_sortformer.config.inference import ClusteringConfig

_TINY = 1e-8


def cluster_probabilities(
    embeddings: np.ndarray,
    probs: np.ndarray,
    config: ClusteringConfig | None = None,
    *,
    num_speakers: int | None = None,
    min_speakers: int | None = None,
    max_speakers: int | None = None,
) -> np.ndarray:
    """Give each frame's speech to the speaker whose voice it has.

    Args:
        embeddings: unit vectors, near for frames of one speaker, shape (frames, dim).
        probs: speech probabilities of the label heads, shape (frames, slots), slots in any order.
        config: settings; the defaults where None.
        num_speakers: the number of speakers, where it is known.
        min_speakers: at least so many, where there is that much speech.
        max_speakers: at most so many; `config.max_speakers`, and else the number of slots, where None.

    Returns:
        Speech probabilities, shape (frames, speakers), columns in the order in which the speakers are first likely.
    """
    config = config or ClusteringConfig()
    highest = num_speakers or max_speakers or config.max_speakers or probs.shape[1]
    lowest = num_speakers or min_speakers or 1
    highest = max(highest, lowest)
    speech, overlap = speech_and_overlap(probs)
    smooth = _unit(uniform_filter1d(embeddings.astype(np.float32), config.smooth_frames, axis=0, mode="nearest"))
    clean = np.flatnonzero((speech > config.speech_threshold) & (overlap < 0.5))
    if len(clean) < 2:
        return speech[:, None].astype(np.float32)
    centroids = _find_centroids(smooth[clean], config, lowest, highest)
    posterior = np.ones((len(speech), 1))
    for _ in range(config.refinements):
        posterior = speaker_posterior(smooth, centroids, config)
        weight = posterior[clean] ** 2
        centroids = _unit(weight.T @ smooth[clean])
    result = speech[:, None] * posterior
    if config.overlap and result.shape[1] > 1:
        result = _add_second_speaker(result, overlap, config.overlap_window_frames)
    arrival = np.where((result > 0.5).any(axis=0), (result > 0.5).argmax(axis=0), len(result))
    return np.ascontiguousarray(result[:, np.argsort(arrival, kind="stable")], dtype=np.float32)


def speech_and_overlap(probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that at least one, and at least two of independent slots are active, each of shape (frames,).

    Example:
        >>> [values.tolist() for values in speech_and_overlap(np.array([[0.5, 0.5], [1.0, 0.0]]))]
        [[0.75, 1.0], [0.25, 0.0]]
    """
    nobody, exactly_one = np.ones(len(probs)), np.zeros(len(probs))
    for slot in probs.T.astype(np.float64):
        exactly_one = exactly_one * (1 - slot) + nobody * slot
        nobody = nobody * (1 - slot)
    return 1 - nobody, np.clip(1 - nobody - exactly_one, 0.0, 1.0)


def speaker_posterior(embeddings: np.ndarray, centroids: np.ndarray, config: ClusteringConfig) -> np.ndarray:
    """Probability of each speaker at each frame if exactly one speaks, shape (frames, speakers).

    A frame's evidence is the cosine to each centroid, averaged over `posterior_frames`, sharpened by `sharpness`.
    """
    score = config.sharpness * (embeddings @ centroids.T)
    score = uniform_filter1d(score, config.posterior_frames, axis=0, mode="nearest")
    score = np.exp(score - score.max(axis=1, keepdims=True))
    return score / score.sum(axis=1, keepdims=True)


def _find_centroids(frames: np.ndarray, config: ClusteringConfig, lowest: int, highest: int) -> np.ndarray:
    """Average-linkage clusters of unit vectors (frames, dim), cut where speakers differ; unit centroids."""
    stride = -(-len(frames) // config.max_clustered_frames)
    if stride > 1:  # neighbours are alike: their means stand for them, so that memory does not grow with length
        usable = len(frames) // stride * stride
        frames = _unit(frames[:usable].reshape(-1, stride, frames.shape[1]).mean(axis=1))
    tree = linkage(frames, "average", metric="cosine")
    least = max(1, round(config.min_frames / stride))
    labels = fcluster(tree, 1 - config.threshold, "distance")
    large = _large_clusters(labels, least)
    count = len(large)
    if count < lowest:  # cut deeper, until enough clusters are large enough to be somebody
        for parts in range(lowest, min(8 * lowest + 8, len(frames)) + 1):
            labels = fcluster(tree, parts, "maxclust")
            large = _large_clusters(labels, least)
            if len(large) >= lowest:
                break
        highest = max(min(highest, len(large)), 1)
    chosen = large[:highest] if len(large) else np.array([np.bincount(labels).argmax()])
    return _unit(np.stack([frames[labels == label].mean(axis=0) for label in chosen]))


def _large_clusters(labels: np.ndarray, least: int) -> np.ndarray:
    """Labels of the clusters of at least `least` members, the largest first."""
    sizes = np.bincount(labels)
    order = np.argsort(-sizes, kind="stable")
    return order[sizes[order] >= max(least, 1)]


def _add_second_speaker(result: np.ndarray, overlap: np.ndarray, window_frames: int) -> np.ndarray:
    """Where two speak, the second is whoever else speaks most around that frame."""
    frames = np.arange(len(result))
    around = uniform_filter1d(result, window_frames, axis=0, mode="nearest")
    around[frames, result.argmax(axis=1)] = -1.0
    second = around.argmax(axis=1)
    result = result.copy()
    result[frames, second] = np.maximum(result[frames, second], overlap)
    return result


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / (np.linalg.norm(vectors, axis=-1, keepdims=True) + _TINY)
