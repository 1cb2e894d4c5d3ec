# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Settings of the voices of a mixture: which speakers come together, and how one becomes several."""

from __future__ import annotations

from dataclasses import dataclass, field

from nemo_sortformer.config.acoustics import check_pairs, check_shares
from nemo_sortformer.config.merge import ConfigError


@dataclass(kw_only=True)
class VoicesConfig:
    """What :func:`nemo_sortformer.data.mixing.conversation.draw_voices` draws from."""

    synthetic_share: float = 0.25
    """Share of the conversations that are made of synthetic speakers only, where there are recorded ones too."""
    same_source_probability: float = 0.5
    """Probability that all voices of a conversation come from one source, so that the channel tells nothing."""
    same_source_excluded: list[str] = field(default_factory=list)
    """Sources of too few or too short recordings to hold a conversation of their own."""
    speed_range: list[float] = field(default_factory=lambda: [0.82, 1.22])
    """Range of the resampling factor (speed and pitch together), log-uniform."""
    speed_probability: float = 0.85
    """Probability that a voice is resampled at all."""
    same_voice_probability: float = 0.1
    """Probability that two speakers of a conversation are one voice at two factors, `same_voice_ratio` apart."""
    same_voice_ratio: float = 1.25
    """Smallest ratio of the two factors of one voice that stands for two speakers."""

    def __post_init__(self) -> None:
        check_shares(self, "synthetic_share", "same_source_probability", "speed_probability", "same_voice_probability")
        check_pairs(self, "speed_range", positive=True)
        if self.same_voice_ratio <= 1:
            raise ConfigError(f"`same_voice_ratio` must be more than 1, but is {self.same_voice_ratio}.")
