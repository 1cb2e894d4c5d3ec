# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Reference diarizers, which tell what an error rate is worth: one speaker, and clustering that is told some truth.

The clusterers know the true speech and the true number of speakers and only say who speaks, one speaker at a time.
Two kinds of features go through the same code: MFCC, which know nothing of speakers, and a model's own embeddings.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.cluster.vq import kmeans2
from scipy.fft import dct
from scipy.ndimage import uniform_filter1d

from nemo_sortformer.data.segment import Segment
from nemo_sortformer.inference.score import Condition, Session, score_sessions

STEP_SECONDS = 0.08
"""One label of a clusterer is for so long."""
_TINY = 1e-8


class Features(NamedTuple):
    """What a clusterer hears of one recording, and what it is told."""

    session: Session
    """The truth, and what part of it counts; the answer is not looked at."""
    values: np.ndarray
    """One vector per frame, shape (frames, dim)."""
    frame_seconds: float
    with_spread: bool
    """Describe a window by the mean and the standard deviation of its vectors; else by the direction of their mean."""


class Setting(NamedTuple):
    """How to cluster."""

    method: str
    """`ward` or `average` linkage (the latter by cosine), or `spectral`."""
    window_seconds: float
    """Each frame is described by the speech within a window of this length around it."""

    def __str__(self) -> str:
        return f"{self.method}, windows of {self.window_seconds:g} s"


SETTINGS = tuple(Setting(*pair) for pair in itertools.product(("ward", "average", "spectral"), (0.7, 1.5, 2.5)))
"""Of these the best on the development sessions is taken."""


def one_speaker(segments: Sequence[Segment]) -> list[Segment]:
    """All speech as that of one speaker.

    Example:
        >>> one_speaker([Segment(0.0, 2.0, "Ann"), Segment(1.0, 3.0, "Bob"), Segment(4.0, 5.0, "Ann")])
        [Segment(start=0.0, end=3.0, speaker='speaker_0'), Segment(start=4.0, end=5.0, speaker='speaker_0')]
    """
    return [Segment(start, end, "speaker_0") for start, end in speech_spans(segments)]


def speech_spans(segments: Sequence[Segment]) -> list[tuple[float, float]]:
    """Stretches in which at least one speaks, in order; stretches that touch are one."""
    spans: list[tuple[float, float]] = []
    for segment in sorted(segments):
        if spans and segment.start <= spans[-1][1]:
            spans[-1] = spans[-1][0], max(spans[-1][1], segment.end)
        else:
            spans.append((segment.start, segment.end))
    return spans


def mfcc(audio: np.ndarray, *, sample_rate: int = 16000, num_mels: int = 40, num_coefficients: int = 20) -> np.ndarray:
    """Mel-frequency cepstral coefficients 1 to `num_coefficients`, without the level, every 10 ms.

    Args:
        audio: samples, shape (samples,).
        sample_rate: in Hz.
        num_mels: triangular filters between 50 Hz and half the sample rate.
        num_coefficients: kept of the cosine transform of the logarithmic energies.

    Returns:
        Shape (frames, num_coefficients), windows of 25 ms centred on 5, 15, ... ms.
    """
    hop, width = sample_rate // 100, sample_rate // 40
    padded = np.pad(audio.astype(np.float64), ((width - hop) // 2, width))
    padded = np.append(padded[0], padded[1:] - 0.97 * padded[:-1])
    frames = np.lib.stride_tricks.sliding_window_view(padded, width)[::hop][: -(-len(audio) // hop)]
    power = np.abs(np.fft.rfft(frames * np.hamming(width), n=4 * hop)) ** 2
    energies = power @ _mel_filters(power.shape[1], sample_rate, num_mels).T
    return dct(np.log(energies + 1e-10), norm="ortho")[:, 1 : num_coefficients + 1]


def _mel_filters(num_bins: int, sample_rate: int, num_mels: int) -> np.ndarray:
    """Triangles, equally spaced on the mel scale, shape (num_mels, num_bins)."""
    low, high = (2595 * np.log10(1 + hertz / 700) for hertz in (50.0, sample_rate / 2))
    edges = 700 * (10 ** (np.linspace(low, high, num_mels + 2) / 2595) - 1)
    bins = np.linspace(0, sample_rate / 2, num_bins)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0.0, np.minimum(rising, falling))


def cluster_with_truth(features: Features, setting: Setting) -> list[Segment]:
    """Answer with the true speech, each stretch given to one of the true number of speakers by clustering.

    Where several speak at once one of them is named, so that the others are missed by construction.
    """
    session = features.session
    spans = speech_spans(session.reference)
    num_speakers = len({segment.speaker for segment in session.reference})
    if not spans:
        return []
    repeat = round(STEP_SECONDS / features.frame_seconds)
    num_steps = int(np.ceil(round(spans[-1][1] / STEP_SECONDS, 6)))
    missing = max(num_steps * repeat - len(features.values), 0)  # labels may end a little after the last frame
    values = np.pad(features.values, ((0, missing), (0, 0)), mode="edge")
    heard = _in_speech(spans, len(values), features.frame_seconds)
    described = _describe(values, heard, features, setting)[repeat // 2 :: repeat][:num_steps]
    speech = np.flatnonzero(_in_speech(spans, num_steps, STEP_SECONDS))
    labels = np.zeros(num_steps, dtype=int)
    labels[speech] = cluster_vectors(_scaled(described[speech], features), num_speakers, setting.method)
    return [segment for span in spans for segment in _cut(span, labels)]


def choose_setting(recordings: Sequence[Features], settings: Sequence[Setting] = SETTINGS) -> Setting:
    """The setting with the lowest DER (collar 0.25 s, overlap scored) on these recordings; the first of equals."""
    condition = Condition(0.25, False)

    def der(setting: Setting) -> float:
        answers = [features.session._replace(answer=cluster_with_truth(features, setting)) for features in recordings]
        return score_sessions(answers, [condition]).total(condition).der

    return min(settings, key=der)


def cluster_vectors(vectors: np.ndarray, num_clusters: int, method: str) -> np.ndarray:
    """Labels 0 to at most `num_clusters` - 1 of the vectors, shape (vectors, dim)."""
    if num_clusters < 2 or len(vectors) <= num_clusters:
        return np.zeros(len(vectors), dtype=int)
    if method == "spectral":
        return _spectral(vectors, num_clusters)
    tree = linkage(vectors, method, metric="cosine" if method == "average" else "euclidean")
    return fcluster(tree, num_clusters, "maxclust") - 1


def _spectral(vectors: np.ndarray, num_clusters: int) -> np.ndarray:
    """k-means on the leading eigenvectors of the normalized similarity; of ten seeded starts the tightest one."""
    unit = vectors / (np.linalg.norm(vectors, axis=1, keepdims=True) + _TINY)
    similarity = np.maximum(unit @ unit.T, 0.0)
    floor = np.quantile(similarity, 0.7, axis=1, keepdims=True)  # each frame keeps its nearest three in ten
    similarity = np.where(similarity >= floor, similarity, 0.01 * similarity)
    similarity = (similarity + similarity.T) / 2
    scale = 1 / np.sqrt(similarity.sum(axis=1) + _TINY)
    _, states = np.linalg.eigh(scale[:, None] * similarity * scale)
    points = states[:, -num_clusters:]
    points = points / (np.linalg.norm(points, axis=1, keepdims=True) + _TINY)
    best, least = np.zeros(len(points), dtype=int), np.inf
    for seed in range(10):
        centres, labels = kmeans2(points, num_clusters, minit="++", rng=seed, missing="warn")
        spread = float(((points - centres[labels]) ** 2).sum())
        if spread < least:
            best, least = labels, spread
    return best


def _in_speech(spans: Sequence[tuple[float, float]], num_frames: int, frame_seconds: float) -> np.ndarray:
    """Whether any of a frame's time lies within a stretch, shape (frames,)."""
    inside = np.zeros(num_frames, dtype=bool)
    for start, end in spans:
        inside[int(start / frame_seconds + 1e-6) : int(np.ceil(end / frame_seconds - 1e-6))] = True
    return inside


def _describe(values: np.ndarray, heard: np.ndarray, features: Features, setting: Setting) -> np.ndarray:
    """Mean, and standard deviation where asked for, of the frames with speech in a window around each frame."""
    size = 2 * round(setting.window_seconds / features.frame_seconds / 2) + 1
    weight = heard[:, None].astype(np.float64)

    def average(frames: np.ndarray) -> np.ndarray:
        return uniform_filter1d(frames, size, axis=0, mode="constant")

    share = average(weight) + _TINY
    mean = average(weight * values) / share
    if not features.with_spread:
        return mean
    spread = np.sqrt(np.maximum(average(weight * values**2) / share - mean**2, 0.0))
    return np.concatenate([mean, spread], axis=1)


def _scaled(vectors: np.ndarray, features: Features) -> np.ndarray:
    """Each dimension with mean 0 and deviation 1 over the recording; or, without spread, each vector with length 1."""
    if features.with_spread:
        return (vectors - vectors.mean(axis=0)) / (vectors.std(axis=0) + _TINY)
    return vectors / (np.linalg.norm(vectors, axis=1, keepdims=True) + _TINY)


def _cut(span: tuple[float, float], labels: np.ndarray) -> list[Segment]:
    """A stretch of speech, cut where the label changes."""
    start, end = span
    first, last = int(start / STEP_SECONDS + 1e-6), int(np.ceil(end / STEP_SECONDS - 1e-6))
    segments = []
    for label, run in itertools.groupby(range(first, last), key=lambda step: labels[step]):
        steps = list(run)
        segments.append(
            Segment(max(start, steps[0] * STEP_SECONDS), min(end, (steps[-1] + 1) * STEP_SECONDS), f"speaker_{label}")
        )
    return segments
