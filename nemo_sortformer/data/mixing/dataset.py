# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""An endless supply of training conversations, and the same conversations as files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from nemo_sortformer.config.merge import from_cfg
from nemo_sortformer.config.mixing import MixingConfig
from nemo_sortformer.data.batch import DiarizationItem
from nemo_sortformer.data.mixing.manifest_pool import pool_from_manifest
from nemo_sortformer.data.mixing.numbered import NumberedStream
from nemo_sortformer.data.mixing.pool import SAMPLE_RATE, PoolError, UtterancePool
from nemo_sortformer.data.mixing.recorded import RecordedConversations
from nemo_sortformer.data.mixing.simulate import simulate_conversation
from nemo_sortformer.data.mixing.synthetic import synthetic_pool
from nemo_sortformer.data.rttm import write_rttm
from nemo_sortformer.data.targets import frame_targets


def build_pool(config: MixingConfig) -> UtterancePool:
    """Make the pool that a config names: its manifest, its synthetic speakers, or both.

    Raises:
        PoolError: the config names neither.
    """
    pool = None
    if config.manifest is not None:
        pool = pool_from_manifest(
            config.manifest,
            split=config.split,
            exclude_sources=config.exclude_sources,
            min_seconds=config.min_utterance_seconds,
        )
    if config.synthetic_speakers:
        made = synthetic_pool(config.synthetic_speakers, min_seconds=config.min_utterance_seconds)
        pool = made if pool is None else pool.merged(made)
    if pool is None:
        raise PoolError("There are no voices to mix: set `manifest`, or `synthetic_speakers`, or both.")
    return pool


def build_recorded(config: MixingConfig, *, max_speakers: int | None = None) -> RecordedConversations | None:
    """Read the real conversations that a config names, or None where it names none.

    Args:
        config: what to mix.
        max_speakers: largest number of speakers in an excerpt; None: any.

    Raises:
        ManifestError: a line of the manifest cannot be read.
        PoolError: a recording or its labels cannot be used, or has no excerpt with so few speakers.
    """
    if config.recorded_manifest is None:
        return None
    recorded = RecordedConversations.from_manifest(
        config.recorded_manifest, split=config.recorded_split, max_speakers=max_speakers
    )
    if config.recorded_share > 0:
        recorded.check(config)
    return recorded


class MixingDataset(NumberedStream[DiarizationItem]):
    """Conversations mixed on the fly.

    Conversation number n of worker w of rank r in epoch e is a function of ``(seed, e, r, w, n)`` only, so a run with
    the same numbers of ranks and workers sees the same data. All ranks give equally many conversations.

    Args:
        config: what to mix; a group of keys, as a YAML has them, does as well.
        num_slots: speaker columns of the targets.
        subsampling: feature frames of 10 ms per target frame.
        seed: start of all draws.
        rank: number of this process among those that train together.
        world_size: how many those are.
        pool: the voices, where they are in memory already; None reads those that the config names.

    Raises:
        ValueError: conversations may have more speakers than there are slots.
        PoolError: there are too few voices, or a recorded conversation cannot be used.
    """

    def __init__(
        self,
        config: MixingConfig | Mapping[str, Any],
        *,
        num_slots: int = 4,
        subsampling: int = 8,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        pool: UtterancePool | None = None,
    ) -> None:
        config = from_cfg(MixingConfig, config)
        super().__init__(config.conversations_per_epoch, seed=seed, rank=rank, world_size=world_size)
        most = max(index + 1 for index, weight in enumerate(config.speaker_count_weights) if weight > 0)
        if most > num_slots:
            raise ValueError(
                f"`speaker_count_weights` allows {most} speakers, but the model has {num_slots} slots. Shorten the "
                "list."
            )
        self.config = config
        self.pool = build_pool(config) if pool is None else pool
        self.recorded = build_recorded(config, max_speakers=num_slots)
        if len(self.pool) < most:
            raise PoolError(f"`speaker_count_weights` allows {most} speakers, but the pool has {len(self.pool)}.")
        self.num_slots, self.subsampling = num_slots, subsampling

    def conversation(self, epoch: int, worker: int, number: int) -> DiarizationItem:
        """Mix one conversation by its numbers."""
        rng = self.generator(epoch, worker, number)
        audio, segments = simulate_conversation(self.pool, self.config, rng, self.recorded)
        targets = frame_targets(
            segments, num_samples=len(audio), num_slots=self.num_slots, subsampling=self.subsampling
        )
        return DiarizationItem(torch.from_numpy(audio), torch.from_numpy(targets), self.name(epoch, worker, number))


def write_conversations(
    pool: UtterancePool,
    config: MixingConfig,
    folder: str | Path,
    *,
    count: int,
    seed: int = 0,
    audio_format: str = "flac",
) -> Path:
    """Write conversations as audio, RTTM and a NeMo manifest.

    Args:
        pool: the voices.
        config: what to mix.
        folder: where to; made if it is not there. Files of the same names are overwritten.
        count: how many conversations.
        seed: start of all draws; conversation n is the same for any `count`.
        audio_format: ``flac`` or ``wav``, 16 bit.

    Returns:
        The manifest, `folder`/manifest.jsonl, with paths relative to itself.
    """
    if audio_format not in ("flac", "wav"):
        raise ValueError(f"`audio_format` must be `flac` or `wav`, but is `{audio_format}`.")
    recorded = build_recorded(config)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        audio, segments = simulate_conversation(pool, config, np.random.default_rng([seed, number]), recorded)
        name = f"conversation_{number:05d}"
        soundfile.write(folder / f"{name}.{audio_format}", audio, SAMPLE_RATE, subtype="PCM_16")
        write_rttm(folder / f"{name}.rttm", segments, name)
        lines.append(
            {
                "audio_filepath": f"{name}.{audio_format}",
                "offset": 0.0,
                "duration": len(audio) / SAMPLE_RATE,
                "label": "infer",
                "text": "-",
                "num_speakers": len({segment.speaker for segment in segments}),
                "rttm_filepath": f"{name}.rttm",
                "uniq_id": name,
            }
        )
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return manifest
