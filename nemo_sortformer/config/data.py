# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Where recordings come from and how they are cut and batched, the same keys for training, validation and test."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nemo_sortformer.config.merge import ConfigError
from nemo_sortformer.config.mixing import MixingConfig


@dataclass(kw_only=True)
class DatasetConfig:
    """One data source: exactly one of `manifest_filepath`, `cuts_path`, `lhotse` and `mixing` is given.

    Keys that NeMo also has keep NeMo's names.
    """

    manifest_filepath: str | list[str] | None = None
    """NeMo manifest(s): JSON lines with `audio_filepath, offset, duration, rttm_filepath`."""
    cuts_path: str | None = None
    """lhotse cuts (`.jsonl.gz`), read through NeMo's lhotse loader."""
    lhotse: dict[str, Any] = field(default_factory=dict)
    """Any further keys of NeMo's lhotse loader (`batch_duration`, `num_buckets`, `shar_path`, `input_cfg`, ...)."""
    use_lhotse: bool = False
    """Read `manifest_filepath` through NeMo's lhotse loader too (dynamic batches, buckets, tarred audio)."""
    mixing: MixingConfig | None = None
    """Conversations mixed on the fly out of a single-speaker manifest."""

    sample_rate: int = 16000
    """In Hz; audio of another rate is resampled."""
    session_len_sec: float | None = None
    """Longest stretch of a recording that makes one item, in seconds; longer ones are cut. None: whole recordings."""
    soft_label_thres: float = 0.5
    """Share of a frame's window that a speaker must fill to be active in it, in (0, 1]."""
    soft_targets: bool = False
    """Give that share itself as the target, instead of 0 or 1."""
    keep_earliest_speakers: bool = False
    """Where an item has more speakers than the model has slots: True drops the later ones, False is an error."""
    max_failed_share: float = 0.01
    """Largest share of unreadable recordings that is survived (each is counted and named), in [0, 1]."""

    batch_size: int = 8
    """Recordings per batch and rank."""
    shuffle: bool | None = None
    """None: training shuffles, validation and test do not."""
    drop_last: bool = False
    """Leave out the last batch of an epoch where it is smaller."""
    num_workers: int = 0
    """Processes that read and mix; 0 works in the training process."""
    pin_memory: bool | None = None
    """None: where CUDA is available."""
    seed: int = 0
    """Crops, order and mixtures are a function of it, the rank, the worker and the epoch."""

    def __post_init__(self) -> None:
        given = [name for name in ("manifest_filepath", "cuts_path", "mixing") if getattr(self, name)]
        if len(given) > 1:
            raise ConfigError(f"Only one data source can be given, but `{'` and `'.join(given)}` are.")
        for name in ("batch_size", "sample_rate"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1, but is {getattr(self, name)}.")
        if self.num_workers < 0:
            raise ConfigError(f"`num_workers` must be at least 0, but is {self.num_workers}.")
        if self.session_len_sec is not None and self.session_len_sec <= 0:
            raise ConfigError(f"`session_len_sec` must be positive or null, but is {self.session_len_sec}.")
        if not 0 < self.soft_label_thres <= 1:
            raise ConfigError(f"`soft_label_thres` must be in (0, 1], but is {self.soft_label_thres}.")
        if not 0 <= self.max_failed_share <= 1:
            raise ConfigError(f"`max_failed_share` must be in [0, 1], but is {self.max_failed_share}.")

    @property
    def source(self) -> str | None:
        """``manifest``, ``cuts``, ``mixing``, or None where no source is named yet."""
        if self.mixing is not None:
            return "mixing"
        if self.cuts_path or self.use_lhotse or self.lhotse:
            return "cuts"
        return "manifest" if self.manifest_filepath else None
