# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Sessions of several speakers laid out of whole utterances, so that all that is said is known."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from nemo_sortformer.config.merge import from_cfg
from nemo_sortformer.config.utterances import UtteranceMixingConfig
from nemo_sortformer.data.joint_batch import JointItem
from nemo_sortformer.data.mixing.acoustics import add_acoustics
from nemo_sortformer.data.mixing.conversation import Piece, Plan, Voice, draw_voices
from nemo_sortformer.data.mixing.numbered import NumberedStream
from nemo_sortformer.data.mixing.pool import SAMPLE_RATE, PoolError, UtterancePool
from nemo_sortformer.data.mixing.simulate import dry_tracks
from nemo_sortformer.data.mixing.spoken_pool import build_spoken_pool
from nemo_sortformer.data.rttm import write_rttm
from nemo_sortformer.data.seglst import write_seglst
from nemo_sortformer.data.segment import Segment
from nemo_sortformer.data.spoken_words import TRANSCRIPT, SpokenUtterance, utterance_segments
from nemo_sortformer.data.targets import named_targets
from nemo_sortformer.data.text_labels import TextLabeler

__all__ = ["UtteranceMixingDataset", "mix_session", "plan_session", "session_utterances", "write_sessions"]

_BREATH_SECONDS = 0.05  # between two utterances of one speaker


def plan_session(pool: UtterancePool, config: UtteranceMixingConfig, rng: np.random.Generator) -> Plan:
    """Draw the voices of one session and lay out whole utterances of theirs, without touching audio.

    A voice never overlaps itself. An utterance that would end after `max_session_seconds` is left out.
    """
    if rng.random() < config.silent_share:
        seconds = rng.uniform(min(1.0, config.max_session_seconds), config.max_session_seconds)
        return Plan((), (), round(seconds * SAMPLE_RATE))
    weights = np.asarray(config.speaker_count_weights, dtype=np.float64)
    count = 1 + int(rng.choice(len(weights), p=weights / weights.sum()))
    voices = draw_voices(pool, config, count, rng)
    number = max(int(rng.integers(config.utterances[0], config.utterances[1] + 1)), count)
    order = rng.permutation([*range(count), *rng.integers(count, size=number - count)]).tolist()
    overlap_probability = rng.uniform(*config.overlap_probability)
    pieces: list[Piece] = []
    busy_until = [-math.inf] * count
    end, last_length, last_voice = rng.uniform(*config.lead_seconds), 0.0, -1
    for voice in order:
        overlaps = last_voice not in (-1, voice) and rng.random() < overlap_probability
        gap = 0.0 if overlaps or last_voice < 0 else rng.uniform(*config.gap_seconds)
        free = busy_until[voice] + _BREATH_SECONDS
        chosen = _choose(pool, voices[voice], config.max_session_seconds - max(end + gap, free), rng)
        if chosen is None:
            continue
        length = _speech_seconds(pool, voices[voice], chosen)
        step = -rng.uniform(*config.overlap_share) * min(length, last_length) if overlaps else gap
        start = max(end + step, free)
        pieces.append(_piece(pool, voices[voice], voice, chosen, start))
        busy_until[voice] = start + length
        if start + length > end:
            end, last_length, last_voice = start + length, length, voice
    seconds = min(end + rng.uniform(*config.lead_seconds), config.max_session_seconds + config.lead_seconds[1])
    pieces.sort(key=lambda piece: piece.position)
    return Plan(voices, tuple(pieces), max(math.ceil(seconds * SAMPLE_RATE), SAMPLE_RATE // 10))


def session_utterances(pool: UtterancePool, plan: Plan) -> list[SpokenUtterance]:
    """Say who says what, when, sorted by start; the bounds are those of the speech, not of the sound around it."""
    found = []
    for piece in plan.pieces:
        speaker, factor, name = plan.voices[piece.voice]
        utterance = pool.speakers[speaker].utterances[piece.utterance]
        start = (piece.position + (utterance.lead - piece.start) / factor) / SAMPLE_RATE
        length = (utterance.count - utterance.lead - utterance.tail) / factor / SAMPLE_RATE
        found.append(
            SpokenUtterance(start, min(start + length, plan.num_samples / SAMPLE_RATE), name, utterance.texts)
        )
    return sorted(found, key=lambda one: (one.start, one.end, one.speaker))


def mix_session(
    pool: UtterancePool, config: UtteranceMixingConfig, rng: np.random.Generator
) -> tuple[np.ndarray, list[SpokenUtterance]]:
    """Mix one session.

    Args:
        pool: utterances with texts.
        config: what to draw from.
        rng: source of every draw: the result is a function of it and of the pool.

    Returns:
        The recording at 16 kHz, shape (samples,), float32 within (-1, 1), and who says what, when.

    Raises:
        PoolError: the pool has fewer speakers than a session needs.
    """
    plan = plan_session(pool, config, rng)
    dry = dry_tracks(pool, plan) if plan.voices else np.zeros((1, plan.num_samples), dtype=np.float32)
    return add_acoustics(dry, config, rng), session_utterances(pool, plan)


class UtteranceMixingDataset(NumberedStream[JointItem]):
    """Sessions of several speakers with words, mixed on the fly out of single-speaker utterances.

    Session number n of worker w of rank r in epoch e is a function of ``(seed, e, r, w, n)`` only, so a run with the
    same numbers of ranks and workers sees the same data. All ranks give equally many sessions.

    Args:
        config: what to mix; a group of keys, as a YAML has them, does as well.
        labeler: makes the tokens.
        subsampling: feature frames of 10 ms per target frame.
        seed: start of all draws.
        rank: number of this process among those that train together.
        world_size: how many those are.
        pool: the utterances, where they are in memory already; None reads those that the config names.

    Raises:
        ValueError: sessions may have more speakers than there are slots.
        PoolError: there are too few speakers, or all their utterances are longer than a session.
        SpeakerTagError: a text holds a speaker tag.
        WordsError: a text has unknown characters, and they are an error.
    """

    def __init__(
        self,
        config: UtteranceMixingConfig | Mapping[str, Any],
        labeler: TextLabeler,
        *,
        subsampling: int = 8,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        pool: UtterancePool | None = None,
    ) -> None:
        config = from_cfg(UtteranceMixingConfig, config)
        super().__init__(config.sessions_per_epoch, seed=seed, rank=rank, world_size=world_size)
        if config.most_speakers > labeler.num_slots:
            raise ValueError(
                f"`speaker_count_weights` allows {config.most_speakers} speakers, but the model has "
                f"{labeler.num_slots} slots. Shorten the list."
            )
        self.config, self.labeler, self.subsampling = config, labeler, subsampling
        self.pool = build_spoken_pool(config, labeler.text_fields) if pool is None else pool
        _check_pool(self.pool, config, labeler)

    def conversation(self, epoch: int, worker: int, number: int) -> JointItem:
        """Mix one session by its numbers."""
        audio, utterances = mix_session(self.pool, self.config, self.generator(epoch, worker, number))
        targets, speakers = named_targets(
            utterance_segments(utterances),
            num_samples=len(audio),
            num_slots=self.labeler.num_slots,
            subsampling=self.subsampling,
        )
        texts = self.labeler(utterances, speakers, known={one.speaker for one in utterances})
        name = self.name(epoch, worker, number)
        return JointItem(torch.from_numpy(audio), torch.from_numpy(targets), texts, name)


def write_sessions(
    pool: UtterancePool,
    config: UtteranceMixingConfig,
    folder: str | Path,
    *,
    count: int,
    seed: int = 0,
    audio_format: str = "flac",
    fields: Sequence[str] = (TRANSCRIPT,),
) -> Path:
    """Write sessions as audio, RTTM, SegLST with the words, and a NeMo manifest: fixed ones to validate and test with.

    Args:
        pool: utterances with texts.
        config: what to mix.
        folder: where to; made if it is not there. Files of the same names are overwritten.
        count: how many sessions.
        seed: start of all draws; session n is the same for any `count`.
        audio_format: ``flac`` or ``wav``, 16 bit.
        fields: texts to write.

    Returns:
        The manifest, `folder`/manifest.jsonl, with paths relative to itself.
    """
    if audio_format not in ("flac", "wav"):
        raise ValueError(f"`audio_format` must be `flac` or `wav`, but is `{audio_format}`.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        audio, utterances = mix_session(pool, config, np.random.default_rng([seed, number]))
        name = f"session_{number:05d}"
        segments = [Segment(one.start, one.end, re.sub(r"\s", "_", one.speaker)) for one in utterances]
        words = [one.texts.get(TRANSCRIPT, "") for one in utterances]
        others = [{field: one.texts.get(field, "") for field in fields if field != TRANSCRIPT} for one in utterances]
        soundfile.write(folder / f"{name}.{audio_format}", audio, SAMPLE_RATE, subtype="PCM_16")
        write_rttm(folder / f"{name}.rttm", segments, name)
        write_seglst(folder / f"{name}.seglst.json", segments, name, words, others)
        lines.append(
            {
                "audio_filepath": f"{name}.{audio_format}",
                "offset": 0.0,
                "duration": len(audio) / SAMPLE_RATE,
                "label": "infer",
                "text": "-",
                "num_speakers": len({segment.speaker for segment in segments}),
                "rttm_filepath": f"{name}.rttm",
                "seglst_filepath": f"{name}.seglst.json",
                "uniq_id": name,
            }
        )
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return manifest


def _choose(pool: UtterancePool, voice: Voice, room: float, rng: np.random.Generator) -> int | None:
    """One of the utterances that are not longer than `room` seconds."""
    count = len(pool.speakers[voice.speaker].utterances)
    fitting = [index for index in range(count) if _speech_seconds(pool, voice, index) <= room]
    return fitting[int(rng.integers(len(fitting)))] if fitting else None


def _speech_seconds(pool: UtterancePool, voice: Voice, index: int) -> float:
    utterance = pool.speakers[voice.speaker].utterances[index]
    return (utterance.count - utterance.lead - utterance.tail) / voice.factor / SAMPLE_RATE


def _piece(pool: UtterancePool, voice: Voice, number: int, index: int, start: float) -> Piece:
    """Place an utterance so that its speech starts at `start` seconds; what would be before the session is cut off."""
    utterance = pool.speakers[voice.speaker].utterances[index]
    position = round(start * SAMPLE_RATE - utterance.lead / voice.factor)
    first = min(math.ceil(max(-position, 0) * voice.factor), utterance.lead)
    return Piece(number, index, first, utterance.count - first, max(position, 0))


def _check_pool(pool: UtterancePool, config: UtteranceMixingConfig, labeler: TextLabeler) -> None:
    if len(pool) < config.most_speakers:
        raise PoolError(
            f"`speaker_count_weights` allows {config.most_speakers} speakers, but the pool has {len(pool)}."
        )
    utterances = [one for speaker in pool.speakers for one in speaker.utterances]
    shortest = min(one.count - one.lead - one.tail for one in utterances) / SAMPLE_RATE / config.speed_range[0]
    if shortest + config.lead_seconds[1] > config.max_session_seconds:
        raise PoolError(
            f"`max_session_seconds` is {config.max_session_seconds:g}, but the shortest utterance may take "
            f"{shortest:.1f} s. Make it longer."
        )
    for field in labeler.text_fields:
        for text in {one.texts.get(field, "") for one in utterances}:
            labeler([SpokenUtterance(0.0, 1.0, "", {field: text})], [""])
