# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Settings of the diarization model: the keys under `model:` in the YAML files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from nemo_sortformer.config.data import DatasetConfig
from nemo_sortformer.config.inference import InferenceConfig
from nemo_sortformer.config.merge import ConfigError
from nemo_sortformer.config.parallel import ParallelConfig
from nemo_sortformer.config.streaming import StreamingConfig


def _published_preprocessor() -> dict[str, Any]:
    """The mel front end of the published offline models."""
    return {
        "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
        "sample_rate": 16000,
        "normalize": "per_feature",
        "window_size": 0.025,
        "window_stride": 0.01,
        "window": "hann",
        "features": 80,
        "n_fft": 512,
        "frame_splicing": 1,
        "dither": 0.00001,
    }


@dataclass(kw_only=True)
class DiarizerLossConfig:
    """Weights of the parts of the loss; used as given, never rescaled. A part of weight 0 is not computed."""

    sort_weight: float = 0.5
    """Cross-entropy against the labels in order of arrival."""
    pil_weight: float = 0.5
    """Permutation-invariant cross-entropy: against the order of the labels that fits best."""
    layer_weight: float = 0.0
    """Sorted cross-entropy of the label estimates inside the state encoder, mean over its layers."""
    tie_tolerance: int | None = None
    """Arrivals at most this many frames apart may be swapped where that fits better; None: never."""
    pos_weight: float | None = None
    """Weight of active against silent labels; None: 1."""

    def __post_init__(self) -> None:
        for name in ("sort_weight", "pil_weight", "layer_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(f"`{name}` must be at least 0, but is {getattr(self, name)}.")
        if self.sort_weight == 0 and self.pil_weight == 0:
            raise ConfigError("One of `sort_weight` and `pil_weight` must be above 0, but both are 0.")
        if self.tie_tolerance is not None and self.tie_tolerance < 0:
            raise ConfigError(f"`tie_tolerance` must be at least 0 frames or null, but is {self.tie_tolerance}.")
        if self.pos_weight is not None and self.pos_weight <= 0:
            raise ConfigError(f"`pos_weight` must be above 0 or null, but is {self.pos_weight}.")


@dataclass(kw_only=True)
class AffinityConfig:
    """Embeddings that are near for frames of one speaker, on the acoustic encoder's output."""

    dim: int = 64
    """Width of an embedding."""
    weight: float = 0.5
    """Weight of the same/different-speaker loss."""
    scale: float = 8.0
    """The loss sees `scale * (cosine similarity - margin)` as a logit."""
    margin: float = 0.4
    """Cosine similarity at which same and different are equally likely."""
    max_frames: int = 64
    """Single-speaker frames drawn per recording and step."""

    def __post_init__(self) -> None:
        if self.dim < 1 or self.max_frames < 2:
            raise ConfigError(
                f"`dim` must be at least 1 and `max_frames` at least 2, but are {self.dim} and {self.max_frames}."
            )
        if self.weight < 0 or self.scale <= 0:
            raise ConfigError(
                f"`weight` must be at least 0 and `scale` above 0, but are {self.weight} and {self.scale}."
            )


@dataclass(kw_only=True)
class ActivityConfig:
    """Whether at least one, and at least two speakers are heard at a frame, on the state encoder's output."""

    weight: float = 0.5
    """Weight of its cross-entropy."""

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ConfigError(f"`weight` must be at least 0, but is {self.weight}.")


@dataclass(kw_only=True)
class DiarizerConfig:
    """Everything under `model:`. Parts with a `_target_` are built by NeMo and check their own keys."""

    encoder: dict[str, Any]
    """The acoustic encoder, e.g. NeMo's `ConformerEncoder`."""
    transformer_encoder: dict[str, Any]
    """The state encoder: `TransformerStateEncoder` or `SortformerEncoder`."""
    sample_rate: int = 16000
    """In Hz."""
    max_num_of_spks: int = 4
    """Number of speaker slots."""
    level: Literal["peak", "rms", "none"] = "peak"
    """Gain per recording: by its maximum (as NeMo does with a batch of one), by its RMS, or none."""
    model_defaults: dict[str, Any] = field(default_factory=dict)
    """Not read; a place for values that the YAML refers to more than once."""
    preprocessor: dict[str, Any] = field(default_factory=_published_preprocessor)
    """Audio to mel; a group without `_target_` changes single keys of the published front end."""
    spec_augment: dict[str, Any] | None = None
    """Masking of the mel features while training, e.g. NeMo's `SpectrogramAugmentation`; None: no masking."""
    sortformer_modules: dict[str, Any] = field(default_factory=dict)
    """The label head: keys of `SpeakerHead`; widths and slots follow from the encoders where they are not given."""
    affinity: AffinityConfig | None = None
    """None: no affinity embeddings."""
    activity: ActivityConfig | None = None
    """None: speech and overlap are told from the label head's columns."""
    loss: DiarizerLossConfig = field(default_factory=DiarizerLossConfig)
    """Parts of the loss."""
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    """What `diarize` does unless it is told otherwise."""
    streaming: StreamingConfig | None = None
    """How the model streams, if it was trained to: then `diarize` streams as well. None: it hears recordings whole."""
    train_ds: DatasetConfig | None = None
    """Training data."""
    validation_ds: DatasetConfig | None = None
    """Validation data; several manifests make several loaders."""
    test_ds: DatasetConfig | None = None
    """Test data; several manifests make several loaders."""
    optim: dict[str, Any] | None = None
    """Optimizer and schedule, by NeMo's names."""
    parallel: ParallelConfig | None = None
    """Training on several devices, or in half precision, with `trainer.strategy=nemo_sortformer`."""
    init_encoder_from: str | None = None
    """A NeMo .nemo file whose acoustic encoder starts this one; read once, when a training run sets the model up."""
    der_collar: float | None = None
    """Adds a DER that leaves out this many seconds on each side of a boundary; None: no second DER."""
    target: str | None = None
    """Class of the model; written by NeMo."""
    nemo_version: str | None = None
    """Written by NeMo."""

    def __post_init__(self) -> None:
        if self.max_num_of_spks < 1:
            raise ConfigError(f"`max_num_of_spks` must be at least 1, but is {self.max_num_of_spks}.")
        if self.sample_rate < 1:
            raise ConfigError(f"`sample_rate` must be at least 1 Hz, but is {self.sample_rate}.")
        if "_target_" not in self.preprocessor:
            self.preprocessor = _published_preprocessor() | {"sample_rate": self.sample_rate} | self.preprocessor
        if self.preprocessor.get("sample_rate", self.sample_rate) != self.sample_rate:
            raise ConfigError(
                f"`preprocessor.sample_rate` must equal `sample_rate`, but they are "
                f"{self.preprocessor['sample_rate']} and {self.sample_rate}."
            )
        for name in ("encoder", "transformer_encoder"):
            if "_target_" not in getattr(self, name):
                found = sorted(getattr(self, name))
                raise ConfigError(f"`{name}` must say its class by `_target_`, but has only {found}.")
        if self.streaming is not None:
            self.streaming.check(self.max_num_of_spks)
        if self.inference.assignment == "clustering" and self.affinity is None:
            raise ConfigError("`inference.assignment: clustering` needs the embeddings of `affinity`, which is null.")
