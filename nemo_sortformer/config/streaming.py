# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Settings of a stream: how much is heard before an answer is given, and what is remembered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from nemo_sortformer.config.merge import ConfigError, from_cfg

_NOT_NEGATIVE = (
    "spkcache_len",
    "fifo_len",
    "chunk_left_context",
    "chunk_right_context",
    "spkcache_sil_frames_per_spk",
    "scores_boost_latest",
    "sil_threshold",
    "strong_boost_rate",
    "weak_boost_rate",
    "min_pos_scores_rate",
)


@dataclass(kw_only=True)
class StreamingConfig:
    """By NeMo's names, with NeMo's defaults; lengths are in output frames, usually 80 ms each."""

    chunk_len: int = 188
    """New frames per step: a step is run whenever so many, and their right context, have been heard."""
    chunk_right_context: int = 1
    """Frames after the chunk that are heard before it is answered; with `chunk_len` they make the latency."""
    chunk_left_context: int = 1
    """Frames before the chunk that its first layers hear again."""
    fifo_len: int = 0
    """Latest frames, all of which are heard in each step."""
    spkcache_len: int = 188
    """Frames of the speaker cache: chosen from all of the past, so that speakers are known again."""
    spkcache_update_period: int = 188
    """At least so many frames move from the queue into the cache, when the queue is full."""
    spkcache_sil_frames_per_spk: int = 3
    """Frames of mean silence after those of each speaker in the cache."""
    pred_score_threshold: float = 0.25
    """Probabilities below this count as this where the frames of the cache are chosen, in (0, 0.5]."""
    scores_boost_latest: float = 0.05
    """Added to the scores of new frames."""
    sil_threshold: float = 0.2
    """A frame is silence where the probabilities of all speakers sum to less than this."""
    strong_boost_rate: float = 0.75
    """Share of a speaker's fair part of the cache that is kept for the speaker with much weight."""
    weak_boost_rate: float = 1.5
    """The same, with some weight."""
    min_pos_scores_rate: float = 0.5
    """Share of that part which, once there without overlap, keeps frames with overlap out."""

    def __post_init__(self) -> None:
        for name in ("chunk_len", "spkcache_update_period"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1 frame, but is {getattr(self, name)}.")
        for name in _NOT_NEGATIVE:
            if not getattr(self, name) >= 0:
                raise ConfigError(f"`{name}` must be at least 0, but is {getattr(self, name)}.")
        if not 0 < self.pred_score_threshold <= 0.5:
            raise ConfigError(f"`pred_score_threshold` must be in (0, 0.5], but is {self.pred_score_threshold}.")

    def check(self, num_slots: int) -> None:
        """Stop where the cache has no room for each of `num_slots` speakers.

        Raises:
            ConfigError: it has not.
        """
        least = (1 + self.spkcache_sil_frames_per_spk) * num_slots
        if 0 < self.spkcache_len < least:
            raise ConfigError(
                f"`spkcache_len` must be at least {least}, room for one frame and `spkcache_sil_frames_per_spk` = "
                f"{self.spkcache_sil_frames_per_spk} of silence for each of {num_slots} speakers, but is "
                f"{self.spkcache_len}. Give it more, or 0 for no cache at all."
            )

    def latency_seconds(self, frame_seconds: float = 0.08) -> float:
        """Time from the first sample of a chunk until its answer can be given: the longest that a sample waits."""
        return (self.chunk_len + self.chunk_right_context) * frame_seconds

    @property
    def step_frames(self) -> int:
        """Frames that one step hears at most."""
        context = self.chunk_left_context + self.chunk_right_context
        return self.spkcache_len + self.fifo_len + self.chunk_len + context


LATENCIES: dict[str, dict[str, int]] = {
    "30.4s": {"chunk_len": 340, "chunk_right_context": 40, "fifo_len": 40, "spkcache_update_period": 300},
    "10s": {"chunk_len": 124, "chunk_right_context": 1, "fifo_len": 124, "spkcache_update_period": 124},
    "1.04s": {"chunk_len": 6, "chunk_right_context": 7, "fifo_len": 188, "spkcache_update_period": 144},
    "0.32s": {"chunk_len": 3, "chunk_right_context": 1, "fifo_len": 188, "spkcache_update_period": 144},
}
"""The settings that NVIDIA publishes with its streaming models, named by their latency at 80 ms per frame."""


def streaming_settings(base: StreamingConfig | None, latency: Any = None) -> StreamingConfig:
    """The settings of one stream.

    Args:
        base: what the model carries; NeMo's defaults where None.
        latency: None for `base` (a model that carries none streams at `1.04s`); the name of a preset, one of
            ``30.4s``, ``10s``, ``1.04s``, ``0.32s``; a `StreamingConfig`, which replaces everything; or a group of
            single keys.

    Raises:
        ConfigError: no preset has this name, or a key is unknown or wrong.

    Example:
        >>> streaming_settings(None, "0.32s").latency_seconds()
        0.32
    """
    if isinstance(latency, StreamingConfig):
        return latency
    if latency is None:
        return base if base is not None else streaming_settings(None, "1.04s")
    values = asdict(base or StreamingConfig())
    if isinstance(latency, (str, float, int)):
        given: Mapping[str, Any] = {"chunk_left_context": 1, **LATENCIES[_preset_name(latency)]}
    else:
        given = latency
    return from_cfg(StreamingConfig, values | dict(given), path="latency")


def _preset_name(latency: str | float) -> str:
    """The preset meant by ``"1.04s"``, ``"1.04"`` or ``1.04``."""
    try:
        seconds = float(str(latency).strip().removesuffix("s"))
    except ValueError:
        seconds = -1.0
    for name in LATENCIES:
        if float(name.removesuffix("s")) == seconds:
            return name
    raise ConfigError(
        f"`latency` must be one of {', '.join(f'`{name}`' for name in LATENCIES)}, or a group of keys as `chunk_len`, "
        f"but is `{latency}`."
    )


def streaming_keys() -> tuple[str, ...]:
    """Names of all settings."""
    return tuple(field.name for field in fields(StreamingConfig))
