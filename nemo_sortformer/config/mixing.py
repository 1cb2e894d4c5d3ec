# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Settings of the conversations that are mixed on the fly: every default, its unit and its check.

The defaults describe meetings as well as chats: nearly a third of the conversations has long silences, a quarter has
no overlap at all while others overlap for a third of the speech, most are reverberant and all but a few are noisy.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nemo_sortformer.config.merge import ConfigError


@dataclass(kw_only=True)
class MixingConfig:
    """What :class:`nemo_sortformer.data.mixing.MixingDataset` draws its conversations from.

    A pair ``[low, high]`` is a range that is drawn from uniformly (or log-uniformly, where said).
    """

    # Where the voices come from
    manifest: str | None = None
    """JSON-lines manifest of single-speaker utterances; None with `synthetic_speakers` alone."""
    split: str | None = None
    """Take only the manifest lines whose `split` is this; None takes all."""
    exclude_sources: list[str] = field(default_factory=list)
    """Leave out the manifest lines whose `source` is one of these."""
    min_utterance_seconds: float = 0.25
    """Shorter utterances are left out, seconds."""
    synthetic_speakers: int = 0
    """How many speakers of the speech synthesizer join the pool (needs the extra `demo`)."""
    synthetic_share: float = 0.25
    """Share of the conversations that are made of synthetic speakers only, where there are recorded ones too."""
    recorded_manifest: str | None = None
    """NeMo manifest of real, labelled conversations to use beside the mixed ones; None: there are none."""
    recorded_split: str | None = None
    """Take only the lines of `recorded_manifest` whose `split` is this; None takes all."""
    recorded_share: float = 0.1
    """Share of the conversations that are excerpts of recorded ones, where there are some."""
    recorded_noise_probability: float = 0.5
    """Probability that the background noise is that of a recorded conversation, where there are some."""
    same_source_probability: float = 0.5
    """Probability that all voices of a conversation come from one source, so that the channel tells nothing."""
    same_source_excluded: list[str] = field(default_factory=list)
    """Sources of too few or too short recordings to hold a conversation of their own."""

    # Perturbation that makes new speakers
    speed_range: list[float] = field(default_factory=lambda: [0.82, 1.22])
    """Range of the resampling factor (speed and pitch together), log-uniform."""
    speed_probability: float = 0.85
    """Probability that a voice is resampled at all."""
    same_voice_probability: float = 0.1
    """Probability that two speakers of a conversation are one voice at two factors, `same_voice_ratio` apart."""
    same_voice_ratio: float = 1.25
    """Smallest ratio of the two factors of one voice that stands for two speakers."""

    # Turn-taking
    session_seconds: float = 20.0
    """Length of a conversation, seconds; all have the same, so that batches need no padding."""
    conversations_per_epoch: int = 10_000
    """How many conversations one epoch has, over all ranks and workers."""
    speaker_count_weights: list[float] = field(default_factory=lambda: [0.06, 0.28, 0.32, 0.34])
    """Relative frequency of conversations of 1, 2, 3, ... speakers."""
    turn_seconds: list[float] = field(default_factory=lambda: [0.4, 10.0])
    """Shortest and longest turn, seconds, log-uniform; each conversation has its own longest turn inside."""
    pause_seconds: list[float] = field(default_factory=lambda: [0.08, 0.5])
    """Pause between two utterances of one turn, seconds."""
    gap_seconds: float = 0.4
    """Mean of the exponential silence between two turns, seconds."""
    split_pauses_seconds: float | None = None
    """Silence inside an utterance that is longer than this is labelled as silence; None labels whole utterances."""
    overlap_free_share: float = 0.25
    """Share of the conversations without any overlap."""
    overlap_max: float = 1.0
    """Largest probability, over conversations, that a turn starts before the last one has ended, in [0, 1]."""
    backchannel_share: float = 0.5
    """Share of the conversations (of those with overlap) that have short back-channels inside others' turns."""
    backchannels_per_minute: float = 15.0
    """Largest rate of back-channels, per minute of other speakers' turns."""
    sparse_share: float = 0.3
    """Share of the conversations with long silences, as in meetings."""
    sparse_silence: list[float] = field(default_factory=lambda: [0.2, 0.75])
    """Range of the expected silent share of such a conversation."""

    # Level, room, noise, channel
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
        for name in ("synthetic_share", "recorded_share", "recorded_noise_probability", "same_source_probability",
                     "speed_probability", "same_voice_probability",
                     "overlap_free_share", "overlap_max", "backchannel_share", "sparse_share", "distant_probability",
                     "reverb_probability", "noise_probability", "event_share", "lowpass_probability",
                     "telephone_probability"):  # fmt: skip
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"`{name}` must be in [0, 1], but is {getattr(self, name)}.")
        for name in ("speed_range", "turn_seconds", "pause_seconds", "sparse_silence", "reverb_seconds",
                     "noise_snr_db", "lowpass_hz", "output_dbfs"):  # fmt: skip
            pair = list(getattr(self, name))
            if len(pair) != 2 or not pair[0] <= pair[1]:
                raise ConfigError(f"`{name}` must be a pair [low, high] with low <= high, but is {pair}.")
        for name in ("speed_range", "turn_seconds", "reverb_seconds", "lowpass_hz"):
            if getattr(self, name)[0] <= 0:
                raise ConfigError(f"`{name}` must be positive, but is {list(getattr(self, name))}.")
        for name in ("session_seconds", "conversations_per_epoch", "min_utterance_seconds", "gap_seconds"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"`{name}` must be more than 0, but is {getattr(self, name)}.")
        for name in ("synthetic_speakers", "backchannels_per_minute", "events_per_minute", "level_db", "distant_db",
                     "tilt_db"):  # fmt: skip
            if getattr(self, name) < 0:
                raise ConfigError(f"`{name}` must not be negative, but is {getattr(self, name)}.")
        if self.pause_seconds[0] < 0:
            raise ConfigError(f"`pause_seconds` must not be negative, but is {list(self.pause_seconds)}.")
        if not 0 <= self.sparse_silence[0] <= self.sparse_silence[1] <= 0.95:
            raise ConfigError(f"`sparse_silence` must be in [0, 0.95], but is {list(self.sparse_silence)}.")
        if self.output_dbfs[1] > -10:
            raise ConfigError(f"`output_dbfs` must stay below -10 dB, for headroom, but is {list(self.output_dbfs)}.")
        if self.same_voice_ratio <= 1:
            raise ConfigError(f"`same_voice_ratio` must be more than 1, but is {self.same_voice_ratio}.")
        weights = list(self.speaker_count_weights)
        if not weights or min(weights) < 0 or sum(weights) <= 0:
            raise ConfigError(
                f"`speaker_count_weights` must hold one weight >= 0 per speaker count, not all zero, but is {weights}."
            )
