# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Settings of the sound of a mixed recording: level, room, noise and channel, and checks that mixtures share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nemo_sortformer.config.merge import ConfigError


@dataclass(kw_only=True)
class AcousticsConfig:
    """What :func:`nemo_sortformer.data.mixing.acoustics.add_acoustics` draws from.

    A pair ``[low, high]`` is a range that is drawn from uniformly.
    """

    level_db: float = 6.0
    """A speaker is up to this much louder or softer than the mean, dB."""
    distant_probability: float = 0.15
    """Probability that one speaker is further away: softer and more reverberant."""
    distant_db: float = 12.0
    """A distant speaker is softer by up to this much, dB."""
    reverb_probability: float = 0.65
    """Probability that the conversation is in a room."""
    reverb_seconds: list[float] = field(default_factory=lambda: [0.1, 0.7])
    """Range of the reverberation time T60, seconds."""
    noise_probability: float = 0.97
    """Probability of background noise."""
    noise_snr_db: list[float] = field(default_factory=lambda: [5.0, 45.0])
    """Range of the signal-to-noise ratio against a speaker of mean level, dB."""
    event_share: float = 0.5
    """Share of the conversations with clicks, knocks, breaths, laughs and other short sounds that are no speech."""
    events_per_minute: float = 25.0
    """Largest rate of such sounds, per minute."""
    tilt_db: float = 2.5
    """Largest spectral tilt of a speaker and of the recording, dB per octave around 1 kHz."""
    lowpass_probability: float = 0.3
    """Probability that the recording is limited to a band."""
    lowpass_hz: list[float] = field(default_factory=lambda: [3400.0, 7500.0])
    """Range of the upper edge of that band, Hz."""
    telephone_probability: float = 0.07
    """Probability that the recording went through a telephone: 300-3400 Hz and 8-bit mu-law."""
    output_dbfs: list[float] = field(default_factory=lambda: [-38.0, -20.0])
    """Range of the level of a speaker of mean level in the output, dB below full scale."""

    def __post_init__(self) -> None:
        check_shares(self, "distant_probability", "reverb_probability", "noise_probability", "event_share",
                     "lowpass_probability", "telephone_probability")  # fmt: skip
        check_pairs(self, "noise_snr_db", "output_dbfs")
        check_pairs(self, "reverb_seconds", "lowpass_hz", positive=True)
        for name in ("events_per_minute", "level_db", "distant_db", "tilt_db"):
            if getattr(self, name) < 0:
                raise ConfigError(f"`{name}` must not be negative, but is {getattr(self, name)}.")
        if self.output_dbfs[1] > -10:
            raise ConfigError(f"`output_dbfs` must stay below -10 dB, for headroom, but is {list(self.output_dbfs)}.")


def check_shares(config: Any, *names: str) -> None:
    """Raise ``ConfigError`` unless each of the settings is in [0, 1]."""
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise ConfigError(f"`{name}` must be in [0, 1], but is {getattr(config, name)}.")


def check_pairs(config: Any, *names: str, positive: bool = False) -> None:
    """Raise ``ConfigError`` unless each of the settings is a pair [low, high], and above 0 where asked."""
    for name in names:
        pair = list(getattr(config, name))
        if len(pair) != 2 or not pair[0] <= pair[1]:
            raise ConfigError(f"`{name}` must be a pair [low, high] with low <= high, but is {pair}.")
        if positive and pair[0] <= 0:
            raise ConfigError(f"`{name}` must be positive, but is {pair}.")


def check_weights(config: Any, name: str) -> None:
    """Raise ``ConfigError`` unless the setting holds weights, of which one at least is above 0."""
    weights = list(getattr(config, name))
    if not weights or min(weights) < 0 or sum(weights) <= 0:
        raise ConfigError(f"`{name}` must hold one weight >= 0 per speaker count, not all zero, but is {weights}.")
