# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""How right the answers to a task are, and what trivial methods and clustering reach on the same sequences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.cluster import KMeans

from nemo_sortformer.data.tasks.folder import SplitArrays
from nemo_sortformer.data.tasks.sequences import Split
from nemo_sortformer.functional.counts import der_counts, speaker_count_counts

Labels = NDArray[np.float32]
"""0/1 activity of one sequence, shape (frames, classes)."""


class TaskScores(NamedTuple):
    """Shares in [0, 1], over all sequences of a split together."""

    error: float
    """Missed, false and confused class frames over all class frames, after the best one-to-one mapping."""
    error_as_is: float
    """The same without a mapping: column k of the answer has to be the k-th class to arrive."""
    count_right: float
    """Share of sequences with the right number of classes; one with fewer than three frames does not count."""
    void_f1: float
    """F1 of the frames in which no class is active."""


def score_answers(answers: Iterable[Labels], truths: Iterable[Labels]) -> TaskScores:
    """Compare answers with the truth; either may have any number of columns.

    Raises:
        ValueError: an answer has not the frames of its truth.
    """
    mapped, as_is, counts = np.zeros(4), np.zeros(4), np.zeros(2)
    right_void = answered_void = true_void = 0
    for answer, truth in zip(answers, truths, strict=True):
        if len(answer) != len(truth):
            raise ValueError(f"An answer must have the frames of its truth, {len(truth)}, but has {len(answer)}.")
        width = max(answer.shape[1], truth.shape[1], 1)
        pair = [
            torch.from_numpy(np.pad(np.asarray(labels, np.float32), ((0, 0), (0, width - labels.shape[1]))))[None]
            for labels in (answer, truth)
        ]
        mapped += der_counts(*pair).numpy()
        as_is += der_counts(*pair, as_is=True).numpy()
        counts += speaker_count_counts(*pair).numpy()
        voids = [~(labels > 0.5).any(axis=1) for labels in (answer, truth)]
        right_void += int((voids[0] & voids[1]).sum())
        answered_void += int(voids[0].sum())
        true_void += int(voids[1].sum())
    return TaskScores(
        error=float(mapped[:3].sum() / mapped[3]),
        error_as_is=float(as_is[:3].sum() / as_is[3]),
        count_right=float(counts[0] / counts[1]),
        void_f1=2 * right_void / max(answered_void + true_void, 1),
    )


def reference_answers(
    method: str, embeddings: Sequence[NDArray[np.float32]], truths: Sequence[Labels]
) -> list[Labels]:
    """What a simple method answers.

    Args:
        method: "one class" says that one and the same class is active in every frame; "chance" gives every frame to a
            random class; "k-means" and "linkage" (average, cosine) cluster the frames. The last three are told which
            frames are void, and the true number of classes, which the labeler is not; none knows of overlaps.
        embeddings: per sequence, shape (frames, dim).
        truths: per sequence, shape (frames, classes), all active somewhere.

    Raises:
        ValueError: an unknown method.
    """
    rng = np.random.default_rng(0)
    answers = []
    for frames, truth in zip(embeddings, truths, strict=True):
        count, active = truth.shape[1], np.flatnonzero(truth.any(axis=1))
        if method == "one class":
            answers.append(np.ones((len(truth), 1), dtype=np.float32))
            continue
        if method == "chance":
            chosen = rng.integers(count, size=len(active))
        elif method == "k-means":
            chosen = KMeans(count, n_init=4, random_state=0).fit_predict(frames[active])
        elif method == "linkage":
            chosen = fcluster(linkage(frames[active], "average", "cosine"), count, "maxclust") - 1
        else:
            raise ValueError(f"`method` must be one of {', '.join(REFERENCES)}, but is {method!r}.")
        answer = np.zeros_like(truth)
        answer[active, chosen] = 1
        answers.append(answer[:, np.argsort(np.where(answer.any(axis=0), answer.argmax(axis=0), len(answer)))])
    return answers


REFERENCES = ("one class", "chance", "k-means", "linkage")


def score_references(splits: Mapping[Split, SplitArrays]) -> dict[str, dict[str, dict[str, float]]]:
    """The scores of all reference methods, by :func:`part_name` and method."""
    return {
        part_name(split, kind): {
            method: score_answers(reference_answers(method, data.embeddings, truths), truths)._asdict()
            for method in REFERENCES
        }
        for split, data in splits.items()
        for kind, truths in data.labels.items()
    }


def part_name(split: Split, kind: str) -> str:
    """What the scores of a split and kind of label are called: `unseen`, or `unseen language`."""
    return f"{split} {kind}".strip()
