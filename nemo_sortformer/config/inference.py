# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Settings that turn probabilities into segments."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from nemo_sortformer.config.merge import ConfigError


@dataclass(kw_only=True)
class PostProcessingConfig:
    """NeMo's post-processing parameters, by NeMo's names; all times in seconds."""

    onset: float = 0.5
    """A speaker starts where the probability rises above this, in [0, 1]."""
    offset: float = 0.5
    """A speaker stops where the probability falls below this, in [0, 1]."""
    pad_onset: float = 0.0
    """Added before each segment."""
    pad_offset: float = 0.0
    """Added after each segment."""
    min_duration_on: float = 0.0
    """Segments shorter than this are dropped."""
    min_duration_off: float = 0.0
    """Gaps within one speaker shorter than this are filled."""

    def __post_init__(self) -> None:
        for name in ("onset", "offset"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"`{name}` must be in [0, 1], but is {getattr(self, name)}.")
        for name in ("min_duration_on", "min_duration_off"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"`{name}` must be at least 0 seconds, but is {getattr(self, name)}.")

    def segment_options(self) -> dict[str, float]:
        """The post-processing parameters alone, as keyword arguments of `active_segments`."""
        names = PostProcessingConfig.__dataclass_fields__
        return {name: getattr(self, name) for name in names}


@dataclass(kw_only=True)
class ClusteringConfig:
    """How embeddings become speakers; frames are output frames of the model, usually 80 ms."""

    threshold: float = 0.575
    """Clusters whose mean cosine is above this are one speaker, in (-1, 1). Higher: more speakers."""
    max_speakers: int | None = None
    """Most speakers in a recording; None: as many as the model has slots."""
    min_frames: int = 12
    """A cluster with fewer frames is nobody: its frames go to the nearest speaker."""
    smooth_frames: int = 13
    """Embeddings are averaged over so many frames before they are clustered, odd."""
    speech_threshold: float = 0.5
    """Only frames whose speech probability is above this are clustered."""
    sharpness: float = 32.0
    """How fast the likelihood of a speaker falls with the cosine distance."""
    posterior_frames: int = 9
    """Evidence for a speaker is averaged over so many frames, odd."""
    refinements: int = 3
    """How often centroids are made anew from the frames that they attract, at least 1."""
    overlap: bool = True
    """Give frames in which the heads hear two speakers a second one."""
    overlap_window_frames: int = 25
    """The second speaker is whoever else speaks most within so many frames, odd."""
    max_clustered_frames: int = 4000
    """Longer recordings are clustered by means of neighbouring frames: memory grows with the square of this."""

    def __post_init__(self) -> None:
        if not -1 < self.threshold < 1:
            raise ConfigError(f"`threshold` must be in (-1, 1), but is {self.threshold}.")
        if not 0 <= self.speech_threshold <= 1:
            raise ConfigError(f"`speech_threshold` must be in [0, 1], but is {self.speech_threshold}.")
        for name in ("min_frames", "smooth_frames", "posterior_frames", "refinements", "overlap_window_frames"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1, but is {getattr(self, name)}.")
        for name in ("smooth_frames", "posterior_frames", "overlap_window_frames"):
            if getattr(self, name) % 2 == 0:
                raise ConfigError(f"`{name}` must be odd, as it has a middle frame, but is {getattr(self, name)}.")
        if self.max_speakers is not None and self.max_speakers < 1:
            raise ConfigError(f"`max_speakers` must be at least 1 or null, but is {self.max_speakers}.")
        if self.max_clustered_frames < 2:
            raise ConfigError(f"`max_clustered_frames` must be at least 2, but is {self.max_clustered_frames}.")
        if self.sharpness <= 0:
            raise ConfigError(f"`sharpness` must be above 0, but is {self.sharpness}.")


@dataclass(kw_only=True)
class InferenceConfig(PostProcessingConfig):
    """How `diarize` names speakers and cuts segments; a model carries the values that suit it in its .nemo file."""

    assignment: Literal["heads", "clustering"] = "heads"
    """Who is who: by the label heads' columns, or by clustering the affinity embeddings (needs `model.affinity`)."""
    median_frames: int = 1
    """Length of the median filter over the probabilities of a speaker, in frames, odd; 1 is no filter."""
    min_speaker_seconds: float = 0.0
    """Who speaks less than this in the whole recording is nobody: that speech goes to the likeliest of the others."""
    clustering: ClusteringConfig = field(default_factory=ClusteringConfig)
    """Only read where `assignment` is `clustering`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.median_frames < 1 or self.median_frames % 2 == 0:
            raise ConfigError(f"`median_frames` must be an odd number of at least 1, but is {self.median_frames}.")
        if not self.min_speaker_seconds >= 0:
            raise ConfigError(f"`min_speaker_seconds` must be at least 0, but is {self.min_speaker_seconds}.")
