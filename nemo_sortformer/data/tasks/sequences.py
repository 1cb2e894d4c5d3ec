# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What the tasks share: who takes turns when, and a maker of labelled sequences out of classes.

A task has training classes and unseen classes, which are disjoint, and can render a plan: given which class is active
when, it makes the frames. Everything else (how many classes, segments, overlaps, void, seeds) is drawn here, in the
same way for all tasks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nemo_sortformer.config import ConfigError

Split = Literal["train", "seen", "unseen", "recorded"]
SPLITS: tuple[Split, ...] = ("train", "seen", "unseen", "recorded")
"""To train on; other sequences of the training classes; sequences of classes that are in neither of them; and, where a
task whose data are made has some, recorded sequences of classes that are no training classes."""
_TRIALS = 1000


class Turn(NamedTuple):
    """A stretch of frames in which a class is active."""

    column: int
    start: int
    end: int
    """Past the last frame."""


class LabeledSequence(NamedTuple):
    """One example of a task."""

    embeddings: NDArray[np.float32]
    """Shape (frames, dim)."""
    labels: NDArray[np.float32]
    """0/1, shape (frames, classes of this sequence), columns in random order."""
    classes: tuple[str, ...]
    """What each column stands for."""
    more_labels: dict[str, NDArray[np.float32]] = {}
    """Where there are several kinds of labels: those of each kind by name, the main one, `labels`, among them."""


@dataclass(kw_only=True)
class SequenceConfig:
    """How the classes of a sequence take turns."""

    num_frames: int = 96
    """Length of a sequence."""
    class_counts: tuple[int, ...] = (1, 2, 3, 4)
    """How many classes a sequence may have, each as likely."""
    segment_frames: tuple[int, int] = (4, 14)
    """Shortest and longest segment, drawn uniformly."""
    void_probability: float = 0.35
    """Probability of a void between a segment and the next."""
    void_frames: tuple[int, int] = (2, 8)
    """Shortest and longest void, drawn uniformly."""
    overlap_probability: float = 0.25
    """Probability that a segment starts before the last one has ended."""

    def __post_init__(self) -> None:
        self.class_counts = tuple(self.class_counts)
        if not self.class_counts or min(self.class_counts) < 1:
            raise ConfigError(f"`class_counts` must be numbers of 1 or more, but is {list(self.class_counts)}.")
        for name in ("segment_frames", "void_frames"):
            pair = tuple(getattr(self, name))
            setattr(self, name, pair)
            if len(pair) != 2 or not 1 <= pair[0] <= pair[1]:
                raise ConfigError(f"`{name}` must be two numbers of frames, 1 <= low <= high, but is {list(pair)}.")
        for name in ("void_probability", "overlap_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"`{name}` must be in [0, 1], but is {getattr(self, name)}.")
        needed = max(self.class_counts) * self.segment_frames[1] + self.void_frames[1]
        if self.num_frames < needed:
            raise ConfigError(
                f"`num_frames` must be {needed} or more, to hold {max(self.class_counts)} segments of "
                f"`segment_frames` and a void, but is {self.num_frames}."
            )


def plan_turns(config: SequenceConfig, num_classes: int, rng: np.random.Generator) -> list[Turn]:
    """Draw when each of `num_classes` classes is active.

    At most two are active at once, a class never overlaps itself, every class is active for as long as the shortest
    segment at least, and there is a void.

    Returns:
        The turns by start, with columns in [0, num_classes).

    Raises:
        ConfigError: hardly any plan of these settings is like that.
    """
    for _ in range(_TRIALS):
        turns = _draw_turns(config, num_classes, rng)
        labels = turns_to_labels(turns, config.num_frames, num_classes)
        if (labels.sum(axis=0) >= config.segment_frames[0]).all() and (labels.sum(axis=1) == 0).any():
            return turns
    raise ConfigError(
        f"No plan of {config.num_frames} frames with {num_classes} classes and a void was found in {_TRIALS} trials. "
        "Lengthen `num_frames`, raise `void_probability`, or shorten `segment_frames`."
    )


def _draw_turns(config: SequenceConfig, num_classes: int, rng: np.random.Generator) -> list[Turn]:
    turns: list[Turn] = []
    latest = -1  # the column that is active last, alone from `alone_from` to `busy_until`
    alone_from = 0
    busy_until = int(rng.integers(0, config.void_frames[1] + 1))
    while True:
        others = [column for column in range(num_classes) if column != latest]
        column = int(rng.choice(others)) if others else latest
        length = int(rng.integers(config.segment_frames[0], config.segment_frames[1] + 1))
        start = busy_until
        if latest >= 0 and others and alone_from < busy_until and rng.random() < config.overlap_probability:
            start = int(rng.integers(alone_from, busy_until))
        elif latest >= 0 and (not others or rng.random() < config.void_probability):
            start += int(rng.integers(config.void_frames[0], config.void_frames[1] + 1))
        if start >= config.num_frames:
            return sorted(turns, key=lambda turn: turn.start)
        end = min(start + length, config.num_frames)
        turns.append(Turn(column, start, end))
        alone_from = min(busy_until, end) if start < busy_until else start
        if end >= busy_until:
            latest = column
        busy_until = max(busy_until, end)


def turns_to_labels(turns: Sequence[Turn], num_frames: int, num_classes: int) -> NDArray[np.float32]:
    """0/1 labels of some turns, shape (num_frames, num_classes)."""
    labels = np.zeros((num_frames, num_classes), dtype=np.float32)
    for column, start, end in turns:
        labels[start:end, column] = 1
    return labels


class LabelTask(ABC):
    """Makes the sequences of one task; a subclass says which classes there are and what their frames look like.

    Args:
        classes: names of the classes of `train`, `unseen` and, if any, `recorded`; those of `seen` are `train`'s.
        sequences: how classes take turns.
        seed: start of all draws. A sequence is a function of the settings, the seed, its split and its number.

    Raises:
        ConfigError: a test class is a training class, or a sequence needs more classes than there are.
    """

    frame_seconds: float = 1.0
    """Seconds from one frame to the next; frames themselves where time means nothing."""

    def __init__(self, classes: Mapping[Split, Sequence[str]], sequences: SequenceConfig, seed: int) -> None:
        names = {split: tuple(group) for split, group in classes.items() if group}
        self.classes: dict[Split, tuple[str, ...]] = {"train": names["train"], "seen": names["train"], **names}
        self.sequences, self.seed = sequences, seed
        for split in names.keys() - {"train"}:
            if both := sorted(set(names["train"]) & set(names[split])):
                raise ConfigError(f"Classes of `{split}` must not be training classes, but {', '.join(both)} are.")
        for split in ("train", "unseen"):
            if max(sequences.class_counts) > len(self.classes[split]):
                raise ConfigError(
                    f"`class_counts` must be at most {len(self.classes[split])}, the number of `{split}` classes, but "
                    f"is {list(sequences.class_counts)}."
                )

    def make(self, split: Split, number: int) -> LabeledSequence:
        """Make sequence `number` of a split; frames as rendered, in no common scale."""
        rng = np.random.default_rng([self.seed, SPLITS.index(split), number])
        possible = [count for count in self.sequences.class_counts if count <= len(self.classes[split])]
        classes = self.draw_classes(split, int(rng.choice(possible)), rng)
        turns = plan_turns(self.sequences, len(classes), rng)
        labels = turns_to_labels(turns, self.sequences.num_frames, len(classes))
        return LabeledSequence(self.render(classes, turns, split, rng).astype(np.float32), labels, tuple(classes))

    def draw_classes(self, split: Split, num_classes: int, rng: np.random.Generator) -> list[str]:
        """Draw the classes of a sequence, all different, each as likely."""
        pool = self.classes[split]
        return [pool[index] for index in rng.choice(len(pool), num_classes, replace=False)]

    @abstractmethod
    def render(
        self, classes: Sequence[str], turns: Sequence[Turn], split: Split, rng: np.random.Generator
    ) -> NDArray[np.floating]:
        """Make the frames of a plan, shape (num_frames, dim), with material of `split` only."""
