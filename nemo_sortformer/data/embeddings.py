# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Sequences of embeddings with labels of any classes, from manifests or from memory, as items and batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from nemo_sortformer.data.class_labels import TooManyClassesError, class_targets, label_matrix, segment_labels
from nemo_sortformer.data.embedding_files import (
    EmbeddingEntry,
    EmbeddingError,
    entry_of_arrays,
    read_embedding_manifest,
)
from nemo_sortformer.data.failures import DATA_ERRORS, FailureLog
from nemo_sortformer.data.labels import LabelReader
from nemo_sortformer.data.loaders import EpochSampler
from nemo_sortformer.data.manifest import ManifestError
from nemo_sortformer.data.windowed_dataset import WindowedDataset, windows_in_a_row

if TYPE_CHECKING:
    from nemo_sortformer.config.labeler import EmbeddingDatasetConfig

__all__ = [
    "ArrayDataset",
    "EmbeddingBatch",
    "EmbeddingDataset",
    "EmbeddingItem",
    "build_embedding_loader",
    "check_embeddings",
    "collate_embeddings",
]

_REDRAWS = 10
_SHORTEST_TAIL = 0.1


class EmbeddingItem(NamedTuple):
    """One stretch of one sequence with its labels."""

    embeddings: Tensor
    """float32, shape (frames, dim)."""
    targets: Tensor
    """float32 activity in order of arrival, shape (frames, slots); the slots of all kinds of labels side by side."""
    name: str = ""
    start: int = 0
    """First frame of the stretch in the sequence."""


class EmbeddingBatch(NamedTuple):
    """Zero-padded items."""

    embeddings: Tensor
    """float32, shape (batch, frames, dim)."""
    lengths: Tensor
    """int64 frames per item, shape (batch,)."""
    targets: Tensor
    """float32, shape (batch, frames, slots)."""
    target_lengths: Tensor
    """int64 frames per item, shape (batch,)."""


def collate_embeddings(items: Sequence[EmbeddingItem]) -> EmbeddingBatch:
    """Stack items of any lengths into one zero-padded batch.

    Raises:
        ValueError: there is no item, or the items differ in width or number of slots.
    """
    if not items:
        raise ValueError("A batch needs one item or more, but there is none.")
    shapes = {(item.embeddings.shape[1], item.targets.shape[1]) for item in items}
    if len(shapes) > 1:
        raise ValueError(f"All items of a batch must have one width and number of slots, but have {sorted(shapes)}.")
    width, slots = shapes.pop()
    lengths = torch.tensor([len(item.embeddings) for item in items], dtype=torch.int64)
    embeddings = torch.zeros(len(items), int(lengths.max()), width)
    targets = torch.zeros(len(items), int(lengths.max()), slots)
    for index, item in enumerate(items):
        embeddings[index, : len(item.embeddings)] = item.embeddings
        targets[index, : len(item.targets)] = item.targets
    return EmbeddingBatch(embeddings, lengths, targets, lengths.clone())


class EmbeddingDataset(WindowedDataset[EmbeddingItem]):
    """Embeddings and sorted targets of the sequences of one or more manifests.

    A sequence longer than `max_frames` is cut, and only the cut is read from a memory-mapped file. In training it
    gives as many items as it is windows long, each a window at a random place, which is a function of (seed, epoch,
    index) alone; a window with more classes than slots is drawn anew up to ten times. Otherwise its windows follow
    each other and cover all of it; a tail of less than a tenth of a window belongs to the one before it.

    A sequence that cannot be used is counted, named in a warning, and replaced by the next good item, as long as no
    more than `max_failed_share` of the sequences fail.

    Args:
        manifest: path of a manifest, several paths, or entries already read.
        num_classes: slots of the targets; with several kinds of labels, their slots by name, in order.
        input_dim: width that the embeddings must have; None checks nothing.
        frame_seconds: seconds per frame where the labels are RTTM files and the manifest does not say.
        threshold: share of a frame that a segment must fill to be active in it, in (0, 1].
        max_frames: longest item; None takes whole sequences.
        training: draw windows at random.
        seed: of the random windows.
        max_failed_share: share of the sequences that may fail, in [0, 1]; 0 raises the first error at once.
        keep_earliest_classes: drop the classes that arrive last where there are more than slots.

    Raises:
        ManifestError: a manifest cannot be used; the message says which line.
    """

    survived = (EmbeddingError, *DATA_ERRORS)

    def __init__(
        self,
        manifest: str | Path | Sequence[str | Path] | Sequence[EmbeddingEntry],
        *,
        num_classes: int | Mapping[str, int],
        input_dim: int | None = None,
        frame_seconds: float = 1.0,
        threshold: float = 0.5,
        max_frames: int | None = None,
        training: bool = False,
        seed: int = 0,
        max_failed_share: float = 0.0,
        keep_earliest_classes: bool = False,
    ) -> None:
        self.entries = _entries(manifest)
        self.num_classes = dict(num_classes) if isinstance(num_classes, Mapping) else {"": num_classes}
        self.input_dim, self.frame_seconds, self.threshold = input_dim, frame_seconds, threshold
        self.max_frames = max_frames
        self.keep_earliest_classes = keep_earliest_classes
        failures = FailureLog(
            max_failed_share,
            [entry.where.strip("`") for entry in self.entries],
            what="sequences",
            hint="Repair them or leave them out.",
        )
        self._rttm = LabelReader()
        super().__init__(len(self.entries), failures, training=training, seed=seed)

    def _cut(self, entry_index: int) -> list[tuple[int, int | None]]:
        """In frames, -1 as start: drawn at random; opens the file where the manifest does not say how long it is."""
        entry, limit = self.entries[entry_index], self.max_frames
        if limit is None:
            return [(0, None)]
        try:
            num_frames = entry.num_frames or len(entry.open())
        except EmbeddingError:
            return [(0, None)]  # reading the item will say what is wrong, and count it
        if num_frames <= limit:
            return [(0, None)]
        if self.training:
            return [(-1, limit)] * max(round(num_frames / limit), 1)
        return [(int(s), int(n)) for s, n in windows_in_a_row(num_frames, limit, shortest_tail=_SHORTEST_TAIL * limit)]

    def _read(self, index: int, entry_index: int, start: int, length: int | None) -> EmbeddingItem:
        entry = self.entries[entry_index]
        embeddings = entry.open()
        if len(embeddings) == 0:
            raise entry.error("has no frames, so there is nothing to learn from it. Leave it out.")
        labels = {kind: self._labels(entry, kind, len(embeddings)) for kind in self.num_classes}
        if start >= 0:
            return self._make(entry, embeddings, labels, start, length)
        room = max(len(embeddings) - (length or 0), 0)
        rng = np.random.default_rng([self.seed, self.epoch, index])
        places = rng.integers(0, room + 1, size=_REDRAWS).tolist()
        for place in places[:-1]:
            try:
                return self._make(entry, embeddings, labels, place, length)
            except TooManyClassesError:
                continue
        return self._make(entry, embeddings, labels, places[-1], length)

    def _labels(self, entry: EmbeddingEntry, kind: str, num_frames: int) -> NDArray[Any]:
        """The labels of a kind as they are stored, of as many frames as the embeddings."""
        what = f"labels of `{kind}`" if kind else "labels"
        if kind in entry.rttm:
            path = entry.rttm[kind]
            segments = self._rttm.rttm(path, (entry.name, path.stem, *([entry.path.stem] if entry.path else [])))
            seconds = entry.frame_seconds or self.frame_seconds
            return segment_labels(segments, num_frames=num_frames, frame_seconds=seconds, threshold=self.threshold)
        labels = entry.open_labels(kind)
        if labels is None:
            raise entry.error(
                f"has no {what}, so there is nothing to learn from it. Name `labels_filepath` or `rttm_filepath`; "
                f"labels of zeros stand for a sequence without classes."
            )
        if labels.ndim == 0 or len(labels) != num_frames:
            count = len(labels) if labels.ndim else "no"
            raise entry.error(
                f"{what} and embeddings must have equally many frames, but have {count} and {num_frames}."
            )
        return labels

    def _make(
        self,
        entry: EmbeddingEntry,
        embeddings: NDArray[Any],
        labels: Mapping[str, NDArray[Any]],
        start: int,
        length: int | None,
    ) -> EmbeddingItem:
        stretch = slice(start, None if length is None else start + length)
        try:
            values = check_embeddings(embeddings[stretch], self.input_dim, start=start)
            targets = [
                class_targets(label_matrix(labels[kind][stretch]), slots, keep_earliest=self.keep_earliest_classes)
                for kind, slots in self.num_classes.items()
            ]
        except EmbeddingError as error:
            raise type(error)(f"{entry.where}: {error}") from error
        return EmbeddingItem(
            torch.from_numpy(values), torch.from_numpy(np.concatenate(targets, axis=1)), entry.name, start
        )


class ArrayDataset(EmbeddingDataset):
    """As :class:`EmbeddingDataset`, out of memory.

    Args:
        sequences: pairs of embeddings (frames, dim) and labels, as :func:`label_matrix` takes them, or with several
            kinds a group of these by name; NumPy arrays or tensors.
        num_classes: slots of the targets; with several kinds of labels, their slots by name, in order.
        options: those of :class:`EmbeddingDataset`.
    """

    def __init__(
        self, sequences: Iterable[Sequence[Any]], *, num_classes: int | Mapping[str, int], **options: Any
    ) -> None:
        entries = [entry_of_arrays(one[0], one[1], name=f"array_{number}") for number, one in enumerate(sequences)]
        super().__init__(entries, num_classes=num_classes, **options)

    def loader(self, batch_size: int = 8, *, shuffle: bool = False, seed: int = 0) -> DataLoader[EmbeddingBatch]:
        """Batches of the items, for `trainer.fit(model, train_dataloaders=...)`; the order is a function of `seed`."""
        sampler = EpochSampler(self, num_replicas=1, rank=0, shuffle=shuffle, seed=seed)
        return DataLoader(self, batch_size=batch_size, sampler=sampler, collate_fn=collate_embeddings)


def check_embeddings(embeddings: NDArray[Any], input_dim: int | None = None, *, start: int = 0) -> NDArray[np.float32]:
    """The embeddings (frames, dim) in memory as float32.

    Raises:
        EmbeddingError: another width than `input_dim`, or NaN or infinity, whose frame counts from `start`.
    """
    if input_dim is not None and embeddings.shape[1] != input_dim:
        raise EmbeddingError(
            f"embeddings must be {input_dim} wide (`model.input_dim`), but are {embeddings.shape[1]} wide."
        )
    values: NDArray[np.float32] = np.array(embeddings, dtype=np.float32, order="C")
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        frame = int(finite.argmin())
        raise EmbeddingError(
            f"{int((~finite).sum())} of {len(values)} frames have NaN or infinity in them, the first is frame "
            f"{start + frame}. Replace them."
        )
    return values


def build_embedding_loader(
    cfg: EmbeddingDatasetConfig,
    *,
    num_classes: int | Mapping[str, int],
    input_dim: int | None = None,
    frame_seconds: float = 1.0,
    rank: int = 0,
    world_size: int = 1,
    training: bool = False,
) -> DataLoader[EmbeddingBatch]:
    """Build the loader of a manifest of sequences. All ranks get equally many batches.

    Args:
        cfg: where the data come from, and how they are cut and batched.
        num_classes: as in :class:`EmbeddingDataset`, like the next two.
        input_dim: width of the embeddings.
        frame_seconds: seconds per frame.
        rank: number of this process, in [0, world_size).
        world_size: how many processes work together.
        training: draw random windows, and shuffle unless `cfg.shuffle` says otherwise.
    """
    dataset = EmbeddingDataset(
        cfg.manifest_filepath or [],
        num_classes=num_classes,
        input_dim=input_dim,
        frame_seconds=frame_seconds,
        threshold=cfg.threshold,
        max_frames=cfg.max_frames,
        training=training,
        seed=cfg.seed,
        max_failed_share=cfg.max_failed_share,
        keep_earliest_classes=cfg.keep_earliest_classes,
    )
    shuffle = training if cfg.shuffle is None else cfg.shuffle
    return DataLoader(
        dataset,
        batch_size=cfg.batch_size,
        sampler=EpochSampler(dataset, num_replicas=world_size, rank=rank, shuffle=shuffle, seed=cfg.seed),
        drop_last=cfg.drop_last,
        collate_fn=collate_embeddings,
        num_workers=cfg.num_workers,
        pin_memory=torch.cuda.is_available() if cfg.pin_memory is None else cfg.pin_memory,
        persistent_workers=cfg.num_workers > 0,
    )


def _entries(manifest: str | Path | Sequence[Any]) -> list[EmbeddingEntry]:
    if isinstance(manifest, str):
        manifest = [part.strip() for part in manifest.split(",")]  # NeMo's way to name several
    elif isinstance(manifest, Path):
        manifest = [manifest]
    entries: list[EmbeddingEntry] = []
    for part in manifest:
        entries.extend([part] if isinstance(part, EmbeddingEntry) else read_embedding_manifest(part))
    if not entries:
        raise ManifestError("A data set needs one sequence or more, but there is none.")
    return entries
