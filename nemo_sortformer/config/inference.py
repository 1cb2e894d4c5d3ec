# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Settings that turn probabilities into segments."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

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
class InferenceConfig(PostProcessingConfig):
    """How `diarize` names speakers and cuts segments; a model carries the values that suit it in its .nemo file."""

    assignment: Literal["heads", "clustering"] = "heads"
    """Who is who: by the label heads' columns, or by clustering the affinity embeddings (needs `model.affinity`)."""
    median_frames: int = 1
    """Length of the median filter over the probabilities of a speaker, in frames, odd; 1 is no filter."""
    clustering: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the clustering; only read where `assignment` is `clustering`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.median_frames < 1 or self.median_frames % 2 == 0:
            raise ConfigError(f"`median_frames` must be an odd number of at least 1, but is {self.median_frames}.")
