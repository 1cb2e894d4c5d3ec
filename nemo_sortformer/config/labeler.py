# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Settings of the labeler, which works on any sequence of embeddings: the keys under `model:` in its YAML files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nemo_sortformer.config.diarizer import AffinityConfig, DiarizerLossConfig
from nemo_sortformer.config.inference import InferenceConfig
from nemo_sortformer.config.merge import ConfigError, from_cfg
from nemo_sortformer.config.parallel import ParallelConfig

DEFAULT_NUM_CLASSES = 4


@dataclass(kw_only=True)
class LabelKindConfig:
    """One kind of label, for example the speaker or the language."""

    num_classes: int
    """Number of slots: most classes of this kind in one sequence."""
    weight: float = 1.0
    """Factor on its losses."""
    head: dict[str, Any] = field(default_factory=dict)
    """Its label head, where that is not the `head` of the model."""

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise ConfigError(f"`num_classes` must be at least 1, but is {self.num_classes}.")
        if self.weight <= 0:
            raise ConfigError(f"`weight` must be above 0, but is {self.weight}. Leave the kind out of `heads`.")


@dataclass(kw_only=True)
class EmbeddingDatasetConfig:
    """Sequences of embeddings with their labels, out of manifests."""

    manifest_filepath: str | list[str] | None = None
    """JSON lines with `embeddings_filepath` and `labels_filepath` or `rttm_filepath`; several make several loaders
    in validation and test."""
    frame_seconds: float | None = None
    """Seconds per frame of sequences whose labels are RTTM files; None: the model's."""
    max_frames: int | None = None
    """Longest item; longer sequences are cut, in training at random places. None: whole sequences."""
    threshold: float = 0.5
    """Share of a frame that a segment of an RTTM file must fill to be active in it, in (0, 1]."""
    keep_earliest_classes: bool = False
    """Where an item has more classes than the model has slots: True drops the later ones, False is an error."""
    max_failed_share: float = 0.01
    """Largest share of unusable sequences that is survived (each is counted and named), in [0, 1]."""

    batch_size: int = 8
    """Sequences per batch and rank."""
    shuffle: bool | None = None
    """None: training shuffles, validation and test do not."""
    drop_last: bool = False
    """Leave out the last batch of an epoch where it is smaller."""
    num_workers: int = 0
    """Processes that read; 0 works in the training process."""
    pin_memory: bool | None = None
    """None: where CUDA is available."""
    seed: int = 0
    """Crops and order are a function of it and the epoch."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"`batch_size` must be at least 1, but is {self.batch_size}.")
        if self.num_workers < 0:
            raise ConfigError(f"`num_workers` must be at least 0, but is {self.num_workers}.")
        if self.max_frames is not None and self.max_frames < 1:
            raise ConfigError(f"`max_frames` must be at least 1 or null, but is {self.max_frames}.")
        if self.frame_seconds is not None and self.frame_seconds <= 0:
            raise ConfigError(f"`frame_seconds` must be above 0 or null, but is {self.frame_seconds}.")
        if not 0 < self.threshold <= 1:
            raise ConfigError(f"`threshold` must be in (0, 1], but is {self.threshold}.")
        if not 0 <= self.max_failed_share <= 1:
            raise ConfigError(f"`max_failed_share` must be in [0, 1], but is {self.max_failed_share}.")


@dataclass(kw_only=True)
class LabelerConfig:
    """Everything under `model:`. Parts with a `_target_` are built by NeMo and check their own keys."""

    input_dim: int
    """Width of the embeddings that come in."""
    encoder: dict[str, Any]
    """The state encoder: `SortformerEncoder`, `TransformerStateEncoder` or one that is called alike."""
    max_num_of_classes: int | None = None
    """Number of class slots; None is 4. Not given together with `heads`."""
    heads: dict[str, Any] = field(default_factory=dict)
    """Several kinds of labels at once, by name, each with the keys of :class:`LabelKindConfig`; the first is the main
    one, which the layers of the encoder and the affinity loss learn."""
    head: dict[str, Any] = field(default_factory=dict)
    """Keys of the label head, or another class by `_target_`; widths and slots follow."""
    frame_seconds: float = 1.0
    """Seconds from one frame to the next; 1 makes all times count frames."""
    model_defaults: dict[str, Any] = field(default_factory=dict)
    """Not read; a place for values that the YAML refers to more than once."""
    affinity: AffinityConfig | None = None
    """Embeddings of the encoder's states that are near for frames of one class; None: none."""
    loss: DiarizerLossConfig = field(default_factory=DiarizerLossConfig)
    """Parts of the loss."""
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    """What `label` does unless it is told otherwise; times in the seconds of `frame_seconds`."""
    train_ds: EmbeddingDatasetConfig | None = None
    """Training data."""
    validation_ds: EmbeddingDatasetConfig | None = None
    """Validation data."""
    test_ds: EmbeddingDatasetConfig | None = None
    """Test data."""
    optim: dict[str, Any] | None = None
    """Optimizer and schedule, by NeMo's names."""
    parallel: ParallelConfig | None = None
    """Training on several devices, or in half precision, with `trainer.strategy=nemo_sortformer`."""
    der_collar: float | None = None
    """Adds an error rate that leaves out this many seconds on each side of a boundary; None: no second rate."""
    target: str | None = None
    """Class of the model; written by NeMo."""
    nemo_version: str | None = None
    """Written by NeMo."""

    def __post_init__(self) -> None:
        if self.input_dim < 1:
            raise ConfigError(f"`input_dim` must be at least 1, but is {self.input_dim}.")
        if self.frame_seconds <= 0:
            raise ConfigError(f"`frame_seconds` must be above 0, but is {self.frame_seconds}.")
        if self.heads and self.max_num_of_classes is not None:
            raise ConfigError(
                f"`max_num_of_classes` must be left out where `heads` say how many classes each kind of label has, "
                f"but is {self.max_num_of_classes}."
            )
        if self.max_num_of_classes is not None and self.max_num_of_classes < 1:
            raise ConfigError(f"`max_num_of_classes` must be at least 1, but is {self.max_num_of_classes}.")
        if "_target_" not in self.encoder:
            raise ConfigError(f"`encoder` must say its class by `_target_`, but has only {sorted(self.encoder)}.")
        for name in self.heads:
            if not str(name).isidentifier():
                raise ConfigError(f"`heads` must have names of letters, digits and `_`, but one is {name!r}.")
        if self.inference.assignment == "clustering" and self.affinity is None:
            raise ConfigError("`inference.assignment: clustering` needs the embeddings of `affinity`, which is null.")
        if self.inference.assignment == "clustering" and self.heads:
            raise ConfigError("`inference.assignment: clustering` knows one kind of label, but `heads` are given.")

    @property
    def kinds(self) -> dict[str, LabelKindConfig]:
        """The kinds of labels by name, in the order of their slots; a single one has the empty name."""
        if not self.heads:
            return {"": LabelKindConfig(num_classes=self.max_num_of_classes or DEFAULT_NUM_CLASSES)}
        return {
            name: from_cfg(LabelKindConfig, value, path=f"model.heads.{name}") for name, value in self.heads.items()
        }
