# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""A task as files: one .npz per sequence and a manifest per split, all frames in one space that training decided."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nemo_sortformer.data.tasks.build import TaskConfig
from nemo_sortformer.data.tasks.sequences import SPLITS, LabelTask, Split

_NUM_FITTED = 300
_RIDGE = 0.1
_SETTINGS = "settings.json"
_LABELS = "labels"


class FrameSpace(NamedTuple):
    """Centre and directions that the training frames decided; the first tells void from the rest."""

    mean: NDArray[np.float32]
    directions: NDArray[np.float32]
    """Shape (features, dim)."""

    @classmethod
    def fit(cls, frames: NDArray[np.float32], active: NDArray[np.bool_], dim: int) -> FrameSpace:
        """Find the directions, features being scaled to unit spread first.

        The first is the one in which active frames differ most from void ones (Fisher's); the others are those in
        which what is left varies most, with a mean variance of one, and keep how they compare.

        Args:
            frames: training frames, shape (frames, features).
            active: which of them are not void, shape (frames,).
            dim: how many directions, 2 or more; at most all features are used.
        """
        mean, scale = frames.mean(axis=0), frames.std(axis=0) + 1e-6
        unit = ((frames - mean) / scale).astype(np.float64)
        shift = unit[active].mean(axis=0) - unit[~active].mean(axis=0)
        within = np.cov((unit - active[:, None] * shift).T) + _RIDGE * np.eye(len(shift))
        first = np.linalg.solve(within, shift)
        first /= np.linalg.norm(first)
        rest = unit - np.outer(unit @ first, first)
        values, vectors = np.linalg.eigh(np.cov(rest.T))
        chosen = np.argsort(values)[::-1][: min(dim, len(first)) - 1]
        others = vectors[:, chosen] - np.outer(first, first @ vectors[:, chosen])
        others *= np.sqrt(len(chosen) / values[chosen].sum())
        directions = np.column_stack([first / (unit @ first).std(), others]) / scale[:, None]
        return cls(mean.astype(np.float32), directions.astype(np.float32))

    def project(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """(frames, features) -> (frames, dim)."""
        return (frames - self.mean) @ self.directions


def random_rotation(dim: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw a rotation or reflection, uniformly, of all directions but the first, shape (dim, dim)."""
    q, r = np.linalg.qr(rng.standard_normal((dim - 1, dim - 1)))
    turn = np.eye(dim)
    turn[1:, 1:] = q * np.sign(np.diag(r))
    return turn.astype(np.float32)


def write_task(
    task: LabelTask,
    folder: str | Path,
    config: TaskConfig,
    *,
    features: str = "",
    advance: Callable[[], object] = lambda: None,
) -> dict[Split, Path]:
    """Write the sequences of a task, unless the folder holds just these.

    With `config.rotations` = k > 0 each training sequence is written k times, each time turned by another random
    rotation of space: distances inside a sequence stay as they are, and so does the direction that tells void, but
    where a class lies in space, which is of no help with unseen classes, cannot be learnt by heart.

    Args:
        task: makes the sequences; the split `recorded` is left out where it has none.
        folder: gets a manifest and a folder of .npz files (`embeddings`, `labels`) per split.
        config: what `task` was built from.
        features: whatever else decides what the task makes; it is compared with what the folder was made with.
        advance: called after each sequence.

    Returns:
        The manifest of each split.
    """
    folder = Path(folder)
    counts: dict[Split, int] = {s: config.counts[s] for s in SPLITS if config.counts.get(s) and s in task.classes}
    manifests = {split: folder / f"{split}.jsonl" for split in counts}
    settings = json.loads(json.dumps({**asdict(config), "features": features, "classes": task.classes}))
    if (folder / _SETTINGS).is_file() and json.loads((folder / _SETTINGS).read_text()) == settings:
        return manifests
    (folder / _SETTINGS).unlink(missing_ok=True)
    made = [task.make("train", number) for number in range(min(_NUM_FITTED, counts["train"]))]
    active = np.concatenate([sequence.labels.any(axis=1) for sequence in made])
    space = FrameSpace.fit(np.concatenate([sequence.embeddings for sequence in made]), active, config.dim)
    for split, count in counts.items():
        shutil.rmtree(folder / split, ignore_errors=True)  # a longer one must not leave files behind
        (folder / split).mkdir(parents=True)
        turns = config.rotations if split == "train" else 0
        rng = np.random.default_rng([config.seed, turns])
        lines = []
        for number in range(count):
            sequence = made[number] if split == "train" and number < len(made) else task.make(split, number)
            frames = space.project(sequence.embeddings)
            for copy in range(max(turns, 1)):
                path = folder / split / f"{number:05d}_{copy}.npz"
                turned = frames @ random_rotation(frames.shape[1], rng) if turns else frames
                kinds = {f"{_LABELS}_{kind}": labels for kind, labels in sequence.more_labels.items()}
                kinds = kinds or {_LABELS: sequence.labels}
                np.savez(path, embeddings=turned, classes=np.array(sequence.classes), **kinds)
                lines.append(json.dumps({"embeddings_filepath": f"{split}/{path.name}"}) + "\n")
            advance()
        manifests[split].write_text("".join(lines), encoding="utf-8")
    (folder / _SETTINGS).write_text(json.dumps(settings))  # last: a folder that was not finished is made anew
    return manifests


class SplitArrays(NamedTuple):
    """The sequences of a split in memory."""

    embeddings: list[NDArray[np.float32]]
    labels: dict[str, list[NDArray[np.float32]]]
    """By kind of label; a single kind has the empty name."""
    classes: list[tuple[str, ...]]
    """What the columns of the main kind stand for."""


def read_split(manifest: Path) -> SplitArrays:
    """Read what :func:`write_task` wrote."""
    read = SplitArrays([], {}, [])
    for line in manifest.read_text(encoding="utf-8").splitlines():
        with np.load(manifest.parent / json.loads(line)["embeddings_filepath"], allow_pickle=False) as arrays:
            read.embeddings.append(arrays["embeddings"])
            for name in [name for name in arrays.files if name.startswith(_LABELS)]:
                read.labels.setdefault(name.removeprefix(_LABELS).removeprefix("_"), []).append(arrays[name])
            read.classes.append(tuple(map(str, arrays["classes"])))
    return read
