# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Who speaks when: draws the voices of a conversation and lays out their turns, without touching audio."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from nemo_sortformer.config.mixing import MixingConfig
from nemo_sortformer.config.voices import VoicesConfig
from nemo_sortformer.data.mixing.pool import SAMPLE_RATE, PoolError, UtterancePool

SYNTHETIC = "synthetic"
"""Source name of the speakers made by the synthesizer."""


class Voice(NamedTuple):
    """One participant: a speaker of the pool, played `factor` times as fast."""

    speaker: int
    factor: float
    name: str


class Piece(NamedTuple):
    """A stretch of an utterance at its place in the conversation."""

    voice: int
    utterance: int
    start: int
    """First sample of the utterance that is used."""
    count: int
    """Samples of the utterance that are used, before resampling."""
    position: int
    """Where it starts in the conversation, samples."""

    def length(self, factor: float) -> int:
        """Samples in the conversation."""
        return round(self.count / factor)


class Plan(NamedTuple):
    """A conversation on paper."""

    voices: tuple[Voice, ...]
    pieces: tuple[Piece, ...]
    num_samples: int


class Style(NamedTuple):
    """How the people of one conversation take turns; times in seconds."""

    longest_turn: float
    gap_mean: float
    overlap_probability: float
    overlap_depth: float
    backchannels_per_second: float
    newcomer_probability: float


def plan_conversation(pool: UtterancePool, config: MixingConfig, rng: np.random.Generator) -> Plan:
    """Draw the voices, the manner and the turns of one conversation.

    A voice never overlaps itself. Where turns are long, a voice that was drawn may not come to speak.
    """
    weights = np.asarray(config.speaker_count_weights, dtype=np.float64)
    count = 1 + int(rng.choice(len(weights), p=weights / weights.sum()))
    voices = draw_voices(pool, config, count, rng)
    style = draw_style(config, count, rng)
    return _Planner(pool, config, voices, style, rng).plan()


def draw_voices(pool: UtterancePool, config: VoicesConfig, count: int, rng: np.random.Generator) -> tuple[Voice, ...]:
    """Draw `count` different voices: different speakers, or one speaker at factors far apart.

    Raises:
        PoolError: the pool has fewer speakers than a conversation needs.
    """
    synthetic = pool.sources.get(SYNTHETIC, np.zeros(0, dtype=np.int64))
    recorded = np.setdiff1d(np.arange(len(pool)), synthetic)
    only_synthetic = len(synthetic) >= count and (len(recorded) < count or rng.random() < config.synthetic_share)
    candidates = synthetic if only_synthetic else recorded
    if len(candidates) < count:  # neither kind suffices alone
        candidates = np.arange(len(pool))
    if len(candidates) < count:
        raise PoolError(
            f"A conversation of {count} speakers needs as many in the pool, but there are {len(candidates)}. "
            "Give more speakers, or shorten `speaker_count_weights`."
        )
    first = int(rng.choice(candidates))
    if rng.random() < config.same_source_probability:
        source = pool.speakers[first].source
        if source not in config.same_source_excluded and len(pool.sources[source]) >= count:
            candidates = pool.sources[source]
    others = rng.choice(candidates[candidates != first], count - 1, replace=False) if count > 1 else []
    speakers = [first, *(int(index) for index in others)]
    factors = [draw_factor(config, rng) for _ in speakers]
    low, high = config.speed_range
    if count > 1 and high / low > config.same_voice_ratio and rng.random() < config.same_voice_probability:
        speakers[1] = speakers[0]
        base = math.exp(rng.uniform(math.log(low), math.log(high / config.same_voice_ratio)))
        pair = [base, math.exp(rng.uniform(math.log(base * config.same_voice_ratio), math.log(high)))]
        factors[:2] = pair if rng.random() < 0.5 else pair[::-1]
    return tuple(
        Voice(speaker, factor, f"{pool.speakers[speaker].name}x{factor:.3f}")
        for speaker, factor in zip(speakers, factors, strict=True)
    )


def draw_factor(config: VoicesConfig, rng: np.random.Generator) -> float:
    """Draw the resampling factor of a voice."""
    if rng.random() >= config.speed_probability:
        return 1.0
    return math.exp(rng.uniform(math.log(config.speed_range[0]), math.log(config.speed_range[1])))


def draw_style(config: MixingConfig, num_speakers: int, rng: np.random.Generator) -> Style:
    """Draw how long turns, gaps and overlaps of one conversation are."""
    low, high = config.turn_seconds
    fair = max(1.5 * config.session_seconds / num_speakers, 2 * low)  # so that most can speak in a short session
    longest = math.exp(rng.uniform(math.log(min(2.5, high)), math.log(max(min(high, fair), min(2.5, high)))))
    longest = max(longest, low)
    mean_turn = (longest - low) / math.log(longest / low) if longest > low else low
    gap = config.gap_seconds
    sparse = rng.random() < config.sparse_share
    if sparse:
        silent = rng.uniform(*config.sparse_silence)
        gap = max(gap, mean_turn * silent / (1 - silent))
    overlap = backchannels = 0.0
    if num_speakers > 1 and rng.random() >= config.overlap_free_share:
        overlap = rng.uniform(0.0, config.overlap_max) * (0.3 if sparse else 1.0)
        if rng.random() < config.backchannel_share:
            backchannels = rng.uniform(0.0, config.backchannels_per_minute / 60)
    return Style(longest, gap, overlap, rng.uniform(0.2, 1.0), backchannels, rng.uniform(0.3, 1.0))


class _Planner:
    """Lays out turns from left to right; holds what one conversation needs while it is planned."""

    def __init__(
        self,
        pool: UtterancePool,
        config: MixingConfig,
        voices: tuple[Voice, ...],
        style: Style,
        rng: np.random.Generator,
    ) -> None:
        self.pool, self.config, self.voices, self.style, self.rng = pool, config, voices, style, rng
        self.num_samples = round(config.session_seconds * SAMPLE_RATE)
        self.pieces: list[Piece] = []
        self.busy_until = [0] * len(voices)
        talkative = rng.uniform(0.3, 1.0, len(voices))
        self.talk_weights = talkative / talkative.sum()

    def plan(self) -> Plan:
        style, rng, config = self.style, self.rng, self.config
        waiting = list(rng.permutation(len(self.voices)))
        shortest = config.turn_seconds[0]
        time = rng.exponential(style.gap_mean) + rng.uniform(0.0, 0.3)
        time = min(time, 0.3 * config.session_seconds)
        last = -1
        while time < config.session_seconds - shortest:
            voice = self.next_voice(last, waiting, time)
            turn = self.turn_seconds()
            start = max(round(time * SAMPLE_RATE), self.busy_until[voice])
            end = self.place_turn(voice, start, turn)
            self.place_backchannels(voice, start, end)
            length = (end - start) / SAMPLE_RATE
            if rng.random() < style.overlap_probability:
                step = -min(rng.uniform(0.1, 1.0) * style.overlap_depth * length + 0.1, 3.0)
            else:
                step = 0.03 + rng.exponential(style.gap_mean)
            time = max(end / SAMPLE_RATE + step, start / SAMPLE_RATE + 0.2)
            last = voice
        pieces = sorted(self.pieces, key=lambda piece: piece.position)
        return Plan(self.voices, tuple(pieces), self.num_samples)

    def turn_seconds(self) -> float:
        low, high = self.config.turn_seconds[0], self.style.longest_turn
        if self.rng.random() < 0.25:  # someone explains something
            low = max(low, high / 2)
        return math.exp(self.rng.uniform(math.log(low), math.log(high)))

    def next_voice(self, last: int, waiting: list[int], time: float) -> int:
        rng = self.rng
        seconds_left = self.config.session_seconds - time
        hurry = seconds_left < 0.3 * self.config.session_seconds
        if waiting and (last < 0 or hurry or rng.random() < self.style.newcomer_probability):
            return int(waiting.pop(0))
        heard = [index for index in range(len(self.voices)) if index not in waiting]
        if len(heard) > 1 and rng.random() < 0.85:  # a speaker seldom follows themselves
            heard.remove(last)
        weights = self.talk_weights[heard]
        return int(rng.choice(heard, p=weights / weights.sum()))

    def place_turn(self, voice: int, start: int, seconds: float) -> int:
        """Fill a turn with utterances and pauses; returns the sample where it ends."""
        config, rng = self.config, self.rng
        position, end = start, start
        target = start + round(seconds * SAMPLE_RATE)
        while position < self.num_samples and target - position > max(0.25, 0.2 * seconds) * SAMPLE_RATE:
            end = self.place_piece(voice, position, target - position)
            position = end + round(rng.uniform(*config.pause_seconds) * SAMPLE_RATE)
        self.busy_until[voice] = max(self.busy_until[voice], end + round(0.05 * SAMPLE_RATE))
        return end

    def place_backchannels(self, speaking: int, start: int, end: int) -> None:
        seconds = (end - start) / SAMPLE_RATE
        if seconds < 1.5 or self.style.backchannels_per_second == 0:
            return
        for _ in range(self.rng.poisson(self.style.backchannels_per_second * seconds)):
            position = start + round(self.rng.uniform(0.5, seconds - 0.6) * SAMPLE_RATE)
            free = [v for v, busy in enumerate(self.busy_until) if v != speaking and busy <= position]
            spoken = {piece.voice for piece in self.pieces}
            free = [v for v in free if v in spoken or self.rng.random() < 0.3]
            if not free or position >= self.num_samples:
                continue
            voice = free[int(self.rng.integers(len(free)))]
            stop = self.place_piece(voice, position, round(self.rng.uniform(0.2, 0.8) * SAMPLE_RATE))
            self.busy_until[voice] = stop + round(0.05 * SAMPLE_RATE)

    def place_piece(self, voice: int, position: int, wanted: int) -> int:
        """Place a stretch of a random utterance, at most `wanted` samples long; returns where it ends."""
        speaker, factor, _ = self.voices[voice]
        utterances = self.pool.speakers[speaker].utterances
        index = int(self.rng.integers(len(utterances)))
        start, count = cut(utterances[index].count, utterances[index].pauses, round(wanted * factor), self.rng)
        count = max(1, min(count, math.floor((self.num_samples - position) * factor)))
        piece = Piece(voice, index, start, count, position)
        self.pieces.append(piece)
        return position + piece.length(factor)


def cut(total: int, pauses: np.ndarray, wanted: int, rng: np.random.Generator) -> tuple[int, int]:
    """Choose a stretch of an utterance, from pause to pause where there are pauses.

    Returns:
        First sample and number of samples, at most `wanted`.
    """
    if total <= wanted:
        return 0, total
    starts = [0, *pauses[pauses[:, 1] + wanted <= total, 1].tolist()]
    if len(pauses) == 0 or rng.random() < 0.1:  # few pauses: any place is as good, so that all of it is used
        starts.append(int(rng.integers(total - wanted + 1)))
    start = starts[int(rng.integers(len(starts)))]
    ends = pauses[:, 0]
    ends = ends[(ends <= start + wanted) & (ends >= start + 0.75 * wanted)]
    return start, int(ends[-1] - start) if len(ends) else wanted
