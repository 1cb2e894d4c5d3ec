# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Settings of the sessions that are laid out of whole utterances with text: every default, its unit and its check."""

from __future__ import annotations

from dataclasses import dataclass, field

from nemo_sortformer.config.acoustics import AcousticsConfig, check_pairs, check_shares, check_weights
from nemo_sortformer.config.merge import ConfigError
from nemo_sortformer.config.voices import VoicesConfig


@dataclass(kw_only=True)
class UtteranceMixingConfig(VoicesConfig, AcousticsConfig):
    """What :class:`nemo_sortformer.data.mixing.UtteranceMixingDataset` lays its sessions out of.

    A pair ``[low, high]`` is a range that is drawn from uniformly (or log-uniformly, where said).
    """

    # Where the utterances come from
    manifest: str | None = None
    """JSON-lines manifest of single-speaker utterances with `text`; utterances without are left out."""
    split: str | None = None
    """Take only the manifest lines whose `split` is this; None takes all."""
    sources: list[str] = field(default_factory=list)
    """Take only the manifest lines whose `source` is one of these; an empty list takes all."""
    exclude_sources: list[str] = field(default_factory=list)
    """Leave out the manifest lines whose `source` is one of these."""
    min_utterance_seconds: float = 0.1
    """Utterances with less speech are left out, seconds."""
    max_utterance_seconds: float = 20.0
    """Utterances with more speech are left out, seconds."""
    margin_seconds: float = 0.2
    """Sound that is kept before and after the speech of an utterance, where the file has it, seconds."""

    # Speech that is made
    synthetic_speakers: int = 0
    """How many speakers of the speech synthesizer say texts of the manifest (needs the extra `demo`)."""
    synthetic_utterances: int = 24
    """How many utterances of each are made, once, at the start: 5 ms and some 70 kB of memory each."""
    synthetic_texts: list[str] = field(default_factory=list)
    """What they say; empty: the texts of the manifest."""
    synthetic_languages: list[str] = field(default_factory=lambda: ["en-us", "en-gb", "en-gb-x-rp", "en-us-nyc"])
    """Accents to draw from; see ``SpeechSynthesizer.voices``."""
    synthetic_word_share: float = 0.5
    """Share of their utterances that are words in random order, instead of a whole text."""

    # Voices, where other defaults suit transcripts better
    synthetic_share: float = 0.3
    """Share of the sessions that are made of synthetic speakers only, where there are recorded ones too."""
    speed_range: list[float] = field(default_factory=lambda: [0.85, 1.18])
    """Range of the resampling factor of a voice (speed and pitch together), log-uniform; its text stays."""
    same_voice_probability: float = 0.0
    """Probability that two speakers of a session are one voice at two factors, `same_voice_ratio` apart."""

    # Layout
    sessions_per_epoch: int = 2_000
    """How many sessions one epoch has, over all ranks and workers."""
    speaker_count_weights: list[float] = field(default_factory=lambda: [1.0, 1.0, 1.0])
    """Relative frequency of sessions of 1, 2, 3, ... speakers."""
    utterances: list[int] = field(default_factory=lambda: [2, 6])
    """Fewest and most utterances of a session; each speaker has one at least, where they fit."""
    max_session_seconds: float = 20.0
    """Utterances that would end later are left out, seconds."""
    lead_seconds: list[float] = field(default_factory=lambda: [0.0, 0.6])
    """Silence before the first and after the last utterance, seconds."""
    gap_seconds: list[float] = field(default_factory=lambda: [0.05, 0.8])
    """Silence between two utterances that do not overlap, seconds."""
    overlap_probability: list[float] = field(default_factory=lambda: [0.0, 0.7])
    """Range over sessions of the probability that an utterance starts before another speaker has ended."""
    overlap_share: list[float] = field(default_factory=lambda: [0.05, 0.8])
    """How much of the shorter of the two utterances is overlapped then, in [0, 1]."""
    silent_share: float = 0.02
    """Share of the sessions in which nobody speaks, so that the model learns to write nothing."""

    def __post_init__(self) -> None:
        VoicesConfig.__post_init__(self)
        AcousticsConfig.__post_init__(self)
        check_shares(self, "synthetic_word_share", "silent_share")
        check_pairs(self, "lead_seconds", "gap_seconds", "overlap_probability", "overlap_share", "utterances")
        check_weights(self, "speaker_count_weights")
        for name in ("lead_seconds", "gap_seconds"):
            if getattr(self, name)[0] < 0:
                raise ConfigError(f"`{name}` must not be negative, but is {list(getattr(self, name))}.")
        for name in ("overlap_probability", "overlap_share"):
            if not 0 <= getattr(self, name)[0] <= getattr(self, name)[1] <= 1:
                raise ConfigError(f"`{name}` must be in [0, 1], but is {list(getattr(self, name))}.")
        if self.utterances[0] < 1:
            raise ConfigError(f"`utterances` must be 1 or more, but is {list(self.utterances)}.")
        for name in ("sessions_per_epoch", "min_utterance_seconds", "max_utterance_seconds", "max_session_seconds"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"`{name}` must be more than 0, but is {getattr(self, name)}.")
        for name in ("synthetic_speakers", "margin_seconds"):
            if getattr(self, name) < 0:
                raise ConfigError(f"`{name}` must not be negative, but is {getattr(self, name)}.")
        if self.synthetic_speakers and self.synthetic_utterances < 1:
            raise ConfigError(f"`synthetic_utterances` must be 1 or more, but is {self.synthetic_utterances}.")
        if self.synthetic_speakers and not self.synthetic_languages:
            raise ConfigError("`synthetic_languages` must name one accent or more, but is empty.")

    @property
    def most_speakers(self) -> int:
        """The largest number of speakers that a session may have."""
        return max(index + 1 for index, weight in enumerate(self.speaker_count_weights) if weight > 0)
