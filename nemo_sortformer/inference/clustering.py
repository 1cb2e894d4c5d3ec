# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Who is who by clustering the affinity embeddings; when somebody speaks, and when two do, by the label heads.

The embeddings of a network tell speakers apart long before its heads have learnt which column is whose, and they do so
across windows and beyond the number of slots. The heads know best when there is speech and when it overlaps.
"""

from __future__ import annotations

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.ndimage import uniform_filter1d
from scipy.spatial.distance import pdist

from nemo_sortformer.config.inference import ClusteringConfig

_TINY = 1e-8


def cluster_probabilities(
    embeddings: np.ndarray,
    probs: np.ndarray,
    config: ClusteringConfig | None = None,
    *,
    activity: np.ndarray | None = None,
    num_speakers: int | None = None,
    min_speakers: int | None = None,
    max_speakers: int | None = None,
) -> np.ndarray:
    """Give each frame's speech to the speaker whose voice it has.

    Args:
        embeddings: unit vectors, near for frames of one speaker, shape (frames, dim).
        probs: speech probabilities of the label heads, shape (frames, slots), slots in any order.
        config: settings; the defaults where None.
        activity: probabilities that at least one, and at least two speak, shape (frames, 2); those of independent
            slots where None.
        num_speakers: the number of speakers, where it is known.
        min_speakers: at least so many, where there is that much speech.
        max_speakers: at most so many; `config.max_speakers`, and else the number of slots, where None.

    Returns:
        Speech probabilities, shape (frames, speakers), columns in the order in which the speakers are first likely.
        At each frame the largest of them is the probability that anybody speaks: no speech is lost between speakers.

    Raises:
        ValueError: the two differ in their frames, or have NaN in them.
    """
    _check(embeddings, probs)
    config = config or ClusteringConfig()
    lowest = num_speakers or min_speakers or 1
    highest = max(num_speakers or max_speakers or config.max_speakers or probs.shape[1], lowest)
    speech, overlap = speech_and_overlap(probs) if activity is None else (activity[:, 0], activity.min(axis=1))
    heard = np.flatnonzero(speech > config.speech_threshold)
    clean = heard[overlap[heard] < 0.5]
    if len(clean) < 2:
        clean = heard  # they never speak one by one: better mixed voices than none
    if len(clean) < 2:
        return speech[:, None].astype(np.float32)
    smooth = unit_vectors(
        uniform_filter1d(embeddings.astype(np.float32), config.smooth_frames, axis=0, mode="nearest")
    )
    centroids = refine_centroids(find_centroids(smooth[clean], config, lowest, highest), smooth, clean, config)
    posterior = speaker_posterior(smooth, centroids, config)
    frames, first = np.arange(len(posterior)), posterior.argmax(axis=1)
    result = speech[:, None] * posterior
    result[frames, first] = speech
    if config.overlap and result.shape[1] > 1:
        second = second_speaker(result, first, config.overlap_window_frames)
        result[frames, second] = np.maximum(result[frames, second], overlap)
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


def refine_centroids(
    centroids: np.ndarray, smooth: np.ndarray, clean: np.ndarray, config: ClusteringConfig
) -> np.ndarray:
    """Move the centroids to the frames that they attract; one that attracts none stays."""
    for _ in range(config.refinements):
        sums = (speaker_posterior(smooth, centroids, config)[clean] ** 2).T @ smooth[clean]
        attracts = np.linalg.norm(sums, axis=1, keepdims=True) > _TINY
        centroids = np.where(attracts, unit_vectors(sums), centroids)
    return centroids


def find_centroids(frames: np.ndarray, config: ClusteringConfig, lowest: int, highest: int) -> np.ndarray:
    """Average-linkage clusters of at least two unit vectors (frames, dim), cut where speakers differ; unit centroids.

    Where more clusters than `highest` are large, the largest is chosen, and then those that add most to the chosen
    ones: large, and far from them. So two halves of one speaker do not crowd out somebody who speaks less.
    """
    stride = -(-len(frames) // config.max_clustered_frames)
    frames = frames[::stride]  # neighbours are alike, as they were smoothed; so memory does not grow with length
    least = max(1, round(config.min_frames / stride))
    tree = linkage(np.nan_to_num(pdist(frames, "cosine"), copy=False, nan=1.0), "average")  # NaN: a vector of zeros
    labels = fcluster(tree, 1 - config.threshold, "distance")
    large = _large_clusters(labels, least)
    if len(large) < lowest:
        labels, large = _cut_deeper(tree, least, lowest)
        highest = lowest
    if len(large) == 0:
        large = np.array([np.bincount(labels).argmax()])
    centroids = unit_vectors(np.stack([frames[labels == label].mean(axis=0) for label in large]))
    sizes = np.array([(labels == label).sum() for label in large])
    chosen = [0]
    while len(chosen) < min(highest, len(large)):
        gain = sizes * (1 + _TINY - (centroids @ centroids[chosen].T).max(axis=1))
        gain[chosen] = -np.inf
        chosen.append(int(gain.argmax()))
    return centroids[chosen]


def _cut_deeper(tree: np.ndarray, least: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of a cut with `count` large clusters, and these; what is large shrinks where speech is short."""
    while True:
        for parts in range(count, max(count, min(8 * count + 8, len(tree) + 1)) + 1):
            labels = fcluster(tree, parts, "maxclust")
            large = _large_clusters(labels, least)
            if len(large) >= count:
                return labels, large
        if least == 1:
            return labels, large
        least //= 2


def _large_clusters(labels: np.ndarray, least: int) -> np.ndarray:
    """Labels of the clusters of at least `least` members, the largest first."""
    sizes = np.bincount(labels)
    order = np.argsort(-sizes, kind="stable")
    return order[sizes[order] >= max(least, 1)]


def second_speaker(result: np.ndarray, first: np.ndarray, window_frames: int) -> np.ndarray:
    """Who speaks most around each frame beside the first, shape (frames,)."""
    around = uniform_filter1d(result, window_frames, axis=0, mode="nearest")
    around[np.arange(len(result)), first] = -1.0
    return around.argmax(axis=1)


def _check(embeddings: np.ndarray, probs: np.ndarray) -> None:
    if embeddings.ndim != 2 or probs.ndim != 2 or len(embeddings) != len(probs):
        raise ValueError(
            f"`embeddings` and `probs` must be (frames, dim) and (frames, slots) of the same frames, but are "
            f"{embeddings.shape} and {probs.shape}."
        )
    for name, values in (("embeddings", embeddings), ("probs", probs)):
        if not np.isfinite(values).all():
            raise ValueError(
                f"`{name}` must be numbers, but has NaN or infinity in it: the model's weights or the audio it was "
                "given are not finite."
            )


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """The same directions with length 1; zeros stay zeros."""
    return vectors / (np.linalg.norm(vectors, axis=-1, keepdims=True) + _TINY)
