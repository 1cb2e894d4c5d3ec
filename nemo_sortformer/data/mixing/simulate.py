# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""One conversation from a pool of voices: the recording and who speaks when."""

from __future__ import annotations

import numpy as np

from nemo_sortformer.config.mixing import MixingConfig
from nemo_sortformer.data.mixing.acoustics import add_acoustics
from nemo_sortformer.data.mixing.conversation import Plan, plan_conversation
from nemo_sortformer.data.mixing.pool import SAMPLE_RATE, UtterancePool
from nemo_sortformer.data.mixing.recorded import RecordedConversations
from nemo_sortformer.data.segment import Segment


def simulate_conversation(
    pool: UtterancePool,
    config: MixingConfig,
    rng: np.random.Generator,
    recorded: RecordedConversations | None = None,
) -> tuple[np.ndarray, list[Segment]]:
    """Mix one conversation.

    Args:
        pool: the voices.
        config: what to draw from.
        rng: source of every draw: the result is a function of it, of the pool and of `recorded`.
        recorded: real conversations, to take a share of the result and of the backgrounds from.

    Returns:
        The recording, `config.session_seconds` long at 16 kHz, shape (samples,), float32 within (-1, 1), and the
        speech of every speaker by the dry utterances (a room does not prolong it), sorted by start.

    Raises:
        PoolError: the pool has fewer speakers than a conversation needs.
    """
    if recorded is not None and rng.random() < config.recorded_share:
        track, segments = recorded.excerpt(config, rng)
        return add_acoustics(track[None], config, rng), segments
    plan = plan_conversation(pool, config, rng)
    noise = None
    if recorded is not None and rng.random() < config.recorded_noise_probability:
        noise = recorded.background(plan.num_samples, rng)
    audio = add_acoustics(dry_tracks(pool, plan), config, rng, noise)
    return audio, plan_segments(pool, plan, config.split_pauses_seconds)


def dry_tracks(pool: UtterancePool, plan: Plan) -> np.ndarray:
    """Lay the pieces of a plan on one track per voice, shape (voices, samples), float32."""
    tracks = np.zeros((len(plan.voices), plan.num_samples), dtype=np.float32)
    for piece in plan.pieces:
        speaker, factor, _ = plan.voices[piece.voice]
        x = pool.piece(speaker, piece.utterance, start=piece.start, count=piece.count, factor=factor)
        room = min(len(x), plan.num_samples - piece.position)
        tracks[piece.voice, piece.position : piece.position + room] += x[:room]
    return tracks


def plan_segments(pool: UtterancePool, plan: Plan, split_pauses_seconds: float | None = None) -> list[Segment]:
    """Say who speaks when, seconds; with `split_pauses_seconds` the longer pauses inside utterances are silence."""
    segments = []
    for piece in plan.pieces:
        speaker, factor, name = plan.voices[piece.voice]
        edges = [(0, piece.count)]
        if split_pauses_seconds is not None:
            pauses = pool.speakers[speaker].utterances[piece.utterance].pauses - piece.start
            inside = (pauses[:, 0] > 0) & (pauses[:, 1] < piece.count)
            long = pauses[inside & (pauses[:, 1] - pauses[:, 0] > split_pauses_seconds * factor * SAMPLE_RATE)]
            edges = list(zip([0, *long[:, 1].tolist()], [*long[:, 0].tolist(), piece.count], strict=True))
        for begin, end in edges:
            start = (piece.position + begin / factor) / SAMPLE_RATE
            stop = min((piece.position + end / factor), plan.num_samples) / SAMPLE_RATE
            segments.append(Segment(start, stop, name))
    return sorted(segments)
