# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Deep clustering: embeddings that are near within a class, and k-means in place of a label head."""

import numpy as np
import torch
from nemo.core.classes import typecheck
from scipy.cluster.vq import kmeans2
from torch import Tensor

from nemo_sortformer.baselines.attractor_head import SILENT_LOGIT
from nemo_sortformer.functional.embedding_losses import deep_clustering_loss
from nemo_sortformer.functional.losses import activity_loss
from nemo_sortformer.modules.activity_head import ActivityHead
from nemo_sortformer.modules.affinity_head import AffinityHead
from nemo_sortformer.modules.label_head import StateHead
from nemo_sortformer.modules.padding import checked_mask

_RESTARTS = 3


class DeepClusteringHead(StateHead):
    """Unit-norm embeddings, trained by the multi-label form of ||VV' - YY'||_W^2, and clustered at inference.

    The paper's loss says nothing of silence, overlap and the number of classes, so three things are added that it
    leaves to the user: a small head for "at least one" and "at least two are active"; a frame with two goes to the two
    nearest centroids; and the number of clusters is that of the large eigenvalues of V'V, as an ideal V has one per
    class, the share of frames that the class has. Columns come in order of arrival.

    Args:
        hidden_size: width D of the states.
        num_classes: label columns S, and most clusters.
        embedding_dim: width of an embedding.
        min_share: an eigenvalue counts as a class from this share of the frames on.
        seed: of the k-means.

    Raises:
        ValueError: `num_classes` or `embedding_dim` below one.

    Source: Hershey et al. 2016 (arXiv:1508.04306), loss eq. 1; eq. 16 of SortFormer is its multi-label, weighted form.
        k-means by scipy, the best of three k-means++ starts.
    """

    def __init__(
        self,
        hidden_size: int,
        num_classes: int,
        *,
        embedding_dim: int = 20,
        min_share: float = 0.06,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if num_classes < 1 or embedding_dim < 1:
            raise ValueError(
                f"`num_classes` and `embedding_dim` must be at least 1, but are {num_classes} and {embedding_dim}."
            )
        self.num_classes, self.min_share, self.seed = num_classes, min_share, seed
        self.embedding = AffinityHead(hidden_size, embedding_dim)
        self.activity = ActivityHead(hidden_size)

    @typecheck()
    def forward(self, states: Tensor, mask: Tensor | None = None) -> Tensor:
        """Cluster each recording on the host: (batch, frames, hidden_size) -> (batch, frames, num_classes).

        The nearest class of a frame has the logit of "at least one", the second nearest that of "at least two", all
        others -20. There is no gradient: training is :meth:`forward_with_losses`.
        """
        valid = checked_mask(states, mask)
        with torch.no_grad():
            embeddings = self.embedding(states=states).double().cpu().numpy()
            activity = self.activity(states=states).float()
            if valid is not None:
                activity = activity.masked_fill(~valid[:, :, None], SILENT_LOGIT)
            scores = activity.cpu().numpy()
            logits = [self._cluster(vectors, score) for vectors, score in zip(embeddings, scores, strict=True)]
        return torch.from_numpy(np.stack(logits)).to(states.device)

    def forward_with_losses(
        self, states: Tensor, mask: Tensor | None, labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What training needs: no clustering, the embedding loss and the activity loss.

        Args:
            states: shape (batch, frames, hidden_size).
            mask: true = valid, shape (batch, frames), padding at the end; none = all valid.
            labels: activity, shape (batch, frames, num_classes), columns in any order.

        Returns:
            Zeros of the shape of `labels`, so that a loss on them is a constant, and the two losses.
        """
        valid = checked_mask(states, mask)
        lengths = None if valid is None else valid.sum(dim=1)
        losses = {
            "embedding": deep_clustering_loss(self.embedding(states=states), labels, lengths),
            "activity": activity_loss(self.activity(states=states), labels, lengths),
        }
        return states.new_zeros(labels.shape, dtype=torch.float32), losses

    def _cluster(self, vectors: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Unit vectors (frames, dim) and activity logits (frames, 2) of one recording -> logits (frames, classes)."""
        logits = np.full((len(vectors), self.num_classes), SILENT_LOGIT, dtype=np.float32)
        heard = scores[:, 0] > 0
        clean = vectors[heard & (scores[:, 1] <= 0)]
        clean = clean if len(clean) else vectors[heard]
        if not len(clean):
            return logits
        centroids = best_centroids(clean, count_classes(clean, self.num_classes, self.min_share), self.seed)
        near = (vectors @ centroids.T).argsort(axis=1)[:, ::-1]
        frames = np.arange(len(vectors))
        logits[frames, near[:, 0]] = scores[:, 0]
        if len(centroids) > 1:
            logits[frames, near[:, 1]] = np.minimum(scores[:, 0], scores[:, 1])
        active = logits > 0
        arrival = np.where(active.any(axis=0), active.argmax(axis=0), len(active))
        return logits[:, arrival.argsort(kind="stable")]


def count_classes(vectors: np.ndarray, most: int, min_share: float) -> int:
    """How many eigenvalues of V'V / n are at least `min_share`, from 1 to `most`; vectors are (frames, dim).

    Unit vectors of k orthogonal classes have k eigenvalues above zero: the share of frames that each class has.
    """
    eigenvalues = np.linalg.eigvalsh(vectors.T @ vectors / len(vectors))
    return int(np.clip((eigenvalues >= min_share).sum(), 1, most))


def best_centroids(vectors: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Centroids of `count` clusters, shape (clusters, dim): of several k-means the one with the least squared error.

    There are fewer than `count` where the vectors are.
    """
    count = min(count, len(np.unique(vectors.round(9), axis=0)))
    rng = np.random.default_rng(seed)
    best, least = vectors[:1], np.inf
    for _ in range(_RESTARTS if count > 1 else 1):
        centroids, labels = kmeans2(vectors, count, minit="++", rng=rng, missing="warn")
        error = np.square(vectors - centroids[labels]).sum()
        if error < least:
            best, least = centroids, error
    return best
