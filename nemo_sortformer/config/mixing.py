# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Settings of the conversations that are mixed on the fly: every default, its unit and its check.

The defaults describe meetings as well as chats: nearly a third of the conversations has long silences, a quarter has
no overlap at all while others overlap for a third of the speech, most are reverberant and all but a few are noisy.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nemo_sortformer.config.acoustics import AcousticsConfig, check_pairs, check_shares, check_weights
from nemo_sortformer.config.merge import ConfigError
from nemo_sortformer.config.voices import VoicesConfig


@dataclass(kw_only=True)
class MixingConfig(VoicesConfig, AcousticsConfig):
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
    recorded_manifest: str | None = None
    """NeMo manifest of real, labelled conversations to use beside the mixed ones; None: there are none."""
    recorded_split: str | None = None
    """Take only the lines of `recorded_manifest` whose `split` is this; None takes all."""
    recorded_share: float = 0.1
    """Share of the conversations that are excerpts of recorded ones, where there are some."""
    recorded_noise_probability: float = 0.5
    """Probability that the background noise is that of a recorded conversation, where there are some."""

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

    def __post_init__(self) -> None:
        VoicesConfig.__post_init__(self)
        AcousticsConfig.__post_init__(self)
        check_shares(self, "recorded_share", "recorded_noise_probability", "overlap_free_share", "overlap_max",
                     "backchannel_share", "sparse_share")  # fmt: skip
        check_pairs(self, "turn_seconds", positive=True)
        check_pairs(self, "pause_seconds", "sparse_silence")
        for name in ("session_seconds", "conversations_per_epoch", "min_utterance_seconds", "gap_seconds"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"`{name}` must be more than 0, but is {getattr(self, name)}.")
        for name in ("synthetic_speakers", "backchannels_per_minute"):
            if getattr(self, name) < 0:
                raise ConfigError(f"`{name}` must not be negative, but is {getattr(self, name)}.")
        if self.pause_seconds[0] < 0:
            raise ConfigError(f"`pause_seconds` must not be negative, but is {list(self.pause_seconds)}.")
        if not 0 <= self.sparse_silence[0] <= self.sparse_silence[1] <= 0.95:
            raise ConfigError(f"`sparse_silence` must be in [0, 0.95], but is {list(self.sparse_silence)}.")
        check_weights(self, "speaker_count_weights")
