# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Level, room, noise and channel of a mixed conversation.

Every speaker, the noise and the stray sounds are tracks with a response of their own (room times spectral shape times
gain). All are filtered and summed in blocks in the frequency domain, one inverse transform for all: that is what makes
a conversation cost milliseconds. Rooms and noises come from banks made once per process from fixed seeds, so that a
conversation depends on its own generator only.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import fft

from nemo_sortformer.config.acoustics import AcousticsConfig
from nemo_sortformer.data.mixing.pool import ACTIVE_RMS, SAMPLE_RATE

BLOCK = 8192
SIZE = 2 * BLOCK
DELAY = 512  # room for what a zero-phase shape does before its peak; taken out again, so labels stay true
RIR_SAMPLES = BLOCK - 2 * DELAY  # what is left of a block for the room
NUM_ROOMS, PLACES = 24, 6
NOISE_SECONDS = 64
_FREQUENCIES = np.fft.rfftfreq(SIZE, 1 / SAMPLE_RATE)
_OCTAVES = np.log2(np.maximum(_FREQUENCIES, 60.0) / 1000.0)  # flat below 60 Hz
CEILING = 0.98


def render(tracks: np.ndarray, responses: np.ndarray, *, gain: float = 1.0) -> np.ndarray:
    """Filter each track by its response and sum them.

    Args:
        tracks: dry signals, shape (tracks, samples), float32.
        responses: one spectrum per track, shape (tracks, SIZE // 2 + 1), its direct part delayed by `DELAY` samples
            and its last part at most `BLOCK` samples after its first.
        gain: factor on the sum.

    Returns:
        The sum without the delay, shape (samples,), float32.
    """
    count, num_samples = tracks.shape
    blocks = -(-(num_samples + DELAY) // BLOCK)
    total = np.zeros((blocks, SIZE // 2 + 1), dtype=np.complex64)
    padded = np.zeros((blocks, SIZE), dtype=np.float32)
    flat = np.zeros(blocks * BLOCK, dtype=np.float32)
    for track, response in zip(tracks, responses, strict=True):
        flat[:num_samples] = track
        padded[:, :BLOCK] = flat.reshape(blocks, BLOCK)
        spectrum = fft.rfft(padded, axis=-1)
        spectrum *= response.astype(np.complex64)
        total += spectrum
    wet = fft.irfft(total, n=SIZE, axis=-1)
    wet[1:, :BLOCK] += wet[:-1, BLOCK:]
    return wet[:, :BLOCK].reshape(-1)[DELAY : DELAY + num_samples] * np.float32(gain)


def add_acoustics(
    dry: np.ndarray, config: AcousticsConfig, rng: np.random.Generator, noise: np.ndarray | None = None
) -> np.ndarray:
    """Put dry voices into a room, with noise, through a channel, to a level.

    Args:
        dry: one track per speaker at the level of the pool, shape (speakers, samples), float32.
        config: what to draw from.
        rng: source of every draw.
        noise: background at the level of the pool, shape (samples,), where the noise is not to be drawn.

    Returns:
        The recording, shape (samples,), float32, never beyond 0.98.
    """
    speakers, num_samples = dry.shape
    gains_db = rng.uniform(-config.level_db, config.level_db, speakers)
    far = int(rng.integers(speakers)) if rng.random() < config.distant_probability else -1
    if far >= 0 and speakers > 1:
        gains_db[far] = -rng.uniform(min(config.level_db, config.distant_db), config.distant_db)
    reference_db = 10 * np.log10(np.mean(10 ** (gains_db / 10)))
    gains_db -= reference_db  # the mean speaker has the level of the pool

    has_events = rng.random() < config.event_share
    has_noise = rng.random() < config.noise_probability
    extra = int(has_events) + int(has_noise)
    tracks = np.concatenate([dry, np.zeros((extra, num_samples), dtype=np.float32)]) if extra else dry
    rooms = draw_rooms(config, rng, speakers + int(has_events), distant=far)
    shapes_db = rng.uniform(-config.tilt_db, config.tilt_db, (speakers + extra, 1)) * np.clip(_OCTAVES, -3, 3)
    shapes_db[:speakers] += gains_db[:, None]
    responses = np.empty((speakers + extra, SIZE // 2 + 1), dtype=np.complex64)
    responses[: len(rooms)] = rooms
    if has_events:
        tracks[speakers] = draw_events(num_samples, config, rng)
    if has_noise:
        tracks[-1] = draw_noise(num_samples, rng) if noise is None else noise
        responses[-1] = _flat_response()
        shapes_db[-1] = -rng.uniform(*config.noise_snr_db)
    telephone = rng.random() < config.telephone_probability
    responses *= (10 ** (shapes_db / 20)).astype(np.float32)
    responses *= draw_channel(config, rng, telephone=telephone)

    level_db = rng.uniform(*config.output_dbfs)
    mixed = render(tracks, responses, gain=10 ** (level_db / 20) / ACTIVE_RMS)
    mixed = limit(mixed)
    return limit(mu_law(mixed)) if telephone else mixed


def limit(audio: np.ndarray) -> np.ndarray:
    """Lower the whole recording where its peak is beyond `CEILING`."""
    peak = float(np.abs(audio).max(initial=0.0))
    return audio * np.float32(CEILING / peak) if peak > CEILING else audio


def mu_law(audio: np.ndarray) -> np.ndarray:
    """Quantize as an 8-bit telephone line does."""
    small = np.log1p(np.abs(audio) * np.float32(255)) * np.float32(127 / np.log(256.0))
    np.rint(small, out=small)
    large = np.expm1(small * np.float32(np.log(256.0) / 127)) * np.float32(1 / 255)
    return np.copysign(large, audio)


def draw_channel(config: AcousticsConfig, rng: np.random.Generator, *, telephone: bool) -> np.ndarray:
    """Draw the response of the microphone and line, shape (SIZE // 2 + 1,), complex64."""
    shape = rng.uniform(-config.tilt_db, config.tilt_db) * np.clip(_OCTAVES, -3, 3)
    for _ in range(int(rng.integers(3))):  # a resonance or a notch of the room or the device
        centre, width = rng.uniform(-3, 3), rng.uniform(0.3, 1.2)
        shape = shape + rng.uniform(-8, 6) * np.exp(-(((_OCTAVES - centre) / width) ** 2))
    low, high = rng.uniform(30, 150), float(SAMPLE_RATE)
    if telephone:
        low, high = 300.0, 3400.0
    elif rng.random() < config.lowpass_probability:
        high = rng.uniform(*config.lowpass_hz)
    shape = np.maximum(shape - 10 * np.log10(1 + (_FREQUENCIES / high) ** int(rng.integers(16, 33))), -70.0)
    ratio = 1j * _FREQUENCIES / low  # a causal high-pass, as a zero-phase one would be heard before the speech
    high_pass = ratio**2 / (1 + np.sqrt(2) * ratio + ratio**2)
    return (high_pass * 10 ** (shape / 20)).astype(np.complex64)


@lru_cache(maxsize=1)
def _flat_response() -> np.ndarray:
    return np.exp(-2j * np.pi * _FREQUENCIES * DELAY / SAMPLE_RATE).astype(np.complex64)


def draw_rooms(config: AcousticsConfig, rng: np.random.Generator, count: int, *, distant: int = -1) -> np.ndarray:
    """Draw a room and `count` places in it; the `distant` place is the one with the least direct sound.

    Returns:
        Responses, shape (count, SIZE // 2 + 1), complex64; all alike and flat where there is no room.
    """
    if rng.random() >= config.reverb_probability:
        return np.repeat(_flat_response()[None], count, axis=0)
    bank = room_bank(*(float(value) for value in config.reverb_seconds))
    room = bank[int(rng.integers(NUM_ROOMS))]
    places = rng.choice(PLACES - 1, count, replace=count > PLACES - 1)
    if distant >= 0:
        places[distant] = PLACES - 1
    return room[places]


@lru_cache(maxsize=4)
def room_bank(shortest: float, longest: float) -> np.ndarray:
    """Make synthetic rooms: direct sound, early reflections, and a late part that decays faster at high frequencies.

    Args:
        shortest: smallest T60, seconds.
        longest: largest T60, seconds; the responses are cut at 0.44 s.

    Returns:
        Spectra of unit energy, shape (NUM_ROOMS, PLACES, SIZE // 2 + 1), complex64. The places of a room go from near
        to far; the last one has at least 3 dB less direct than reverberant sound.
    """
    rng = np.random.default_rng(2601)
    time = np.arange(RIR_SAMPLES) / SAMPLE_RATE
    bank = np.empty((NUM_ROOMS, PLACES, SIZE // 2 + 1), dtype=np.complex64)
    for room, t60 in enumerate(np.linspace(shortest, longest, NUM_ROOMS)):
        slow = np.exp(-6.9078 * time / t60)
        fast = np.exp(-6.9078 * time / (t60 * rng.uniform(0.4, 0.7)))
        direct_db = np.sort(rng.uniform(-2, 14, PLACES))[::-1]
        direct_db[-1] = rng.uniform(-9, -3)
        for place in range(PLACES):
            noise = rng.standard_normal(RIR_SAMPLES)
            smooth = np.convolve(noise, np.ones(4) / 2, mode="same")  # what is left of it below about 2 kHz
            late = smooth * slow + (noise - smooth) * fast
            late[: int(rng.uniform(0.001, 0.004) * SAMPLE_RATE)] = 0.0
            early = rng.integers(16, int(0.04 * SAMPLE_RATE), 10)
            late[early] += rng.choice([-1, 1], 10) * rng.uniform(1, 5, 10) * slow[early]
            late *= 10 ** (-direct_db[place] / 20) / np.sqrt(np.square(late).sum())
            late[0] += 1.0
            response = np.zeros(SIZE, dtype=np.float32)
            response[DELAY : DELAY + RIR_SAMPLES] = late / np.sqrt(np.square(late).sum())
            bank[room, place] = fft.rfft(response)
    return bank


def draw_noise(num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Draw background noise at the level of a speaker: one or two of the bank, its loudness wandering slowly.

    Returns:
        Noise of root mean square `ACTIVE_RMS`, shape (num_samples,), float32.
    """
    bank = noise_bank()
    kinds = rng.choice(len(bank), 2, replace=False)
    share = rng.uniform(0, 1) if rng.random() < 0.6 else 1.0
    total = np.zeros(num_samples, dtype=np.float32)
    for kind, part in zip(kinds, (share, 1 - share), strict=True):
        if part > 0:
            total += _excerpt(bank[kind], num_samples, rng) * np.float32(np.sqrt(part))
    if rng.random() < 0.4:
        knots = np.arange(num_samples // SAMPLE_RATE + 2) * SAMPLE_RATE
        wander = 10 ** (np.cumsum(rng.normal(0, 1.5, len(knots))) / 20)
        total *= np.interp(np.arange(num_samples, dtype=np.float32), knots, wander).astype(np.float32)
    level = np.sqrt(np.dot(total, total) / num_samples)
    return total * np.float32(ACTIVE_RMS / max(level, 1e-9))


def _excerpt(row: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    begin = int(rng.integers(len(row)))
    if begin + count <= len(row):
        return row[begin : begin + count]
    return np.take(row, np.arange(begin, begin + count), mode="wrap")


@lru_cache(maxsize=1)
def noise_bank() -> np.ndarray:
    """Make noises of unit power: white, pink, brown, air flow, fan hum, mains hum, shape (kinds, samples), float32."""
    rng = np.random.default_rng(2602)
    count = NOISE_SECONDS * SAMPLE_RATE
    frequencies = np.fft.rfftfreq(count, 1 / SAMPLE_RATE)
    edge = np.maximum(frequencies, 30.0)
    shapes = [
        np.ones_like(edge),
        edge**-0.5,
        edge**-1.0,
        1 / (1 + (edge / 250) ** 1.5) + 0.02,
        1 / (1 + (edge / 1200) ** 2) + 0.1 * np.exp(-(((edge - 400) / 150) ** 2)),
        edge**-0.7 * (1 + 3 * np.exp(-((np.log2(edge / 180)) ** 2) / 0.05)),
    ]
    rows = []
    for shape in shapes:
        spectrum = (rng.standard_normal(len(edge)) + 1j * rng.standard_normal(len(edge))) * shape * (frequencies > 15)
        rows.append(fft.irfft(spectrum.astype(np.complex64), n=count))
    time = np.arange(count) / SAMPLE_RATE
    for base in (50.0, 60.0, 100.0):  # whole periods in 64 s, so that it wraps without a click
        hum = sum(
            rng.uniform(0.2, 1) / order * np.sin(2 * np.pi * base * order * time + rng.uniform(0, 6.28))
            for order in range(1, 12)
        )
        rows.append((hum / np.std(hum) + 0.7 * rows[2] / np.std(rows[2])).astype(np.float32))
    return np.stack([row / np.std(row) for row in rows]).astype(np.float32)


def draw_events(num_samples: int, config: AcousticsConfig, rng: np.random.Generator) -> np.ndarray:
    """Scatter clicks, knocks, breaths, laughs and the like, from 20 dB below to 4 dB above the level of a speaker."""
    track = np.zeros(num_samples, dtype=np.float32)
    bank = event_bank()
    rate = rng.uniform(0, config.events_per_minute / 60)
    for _ in range(rng.poisson(rate * num_samples / SAMPLE_RATE)):
        event = bank[int(rng.integers(len(bank)))]
        begin = int(rng.integers(num_samples))
        room = min(len(event), num_samples - begin)
        track[begin : begin + room] += event[:room] * np.float32(ACTIVE_RMS * 10 ** (rng.uniform(-20, 4) / 20))
    return track


@lru_cache(maxsize=1)
def event_bank() -> tuple[np.ndarray, ...]:
    """Make 160 short sounds that are no speech, each of unit root mean square, float32, at most 1.5 s long."""
    rng = np.random.default_rng(2603)
    kinds = ("click", "knock", "breath", "keys", "squeak", "thud", "laugh", "cough")
    return tuple(_event(kind, rng) for kind in kinds for _ in range(20))


def _event(kind: str, rng: np.random.Generator) -> np.ndarray:
    def noise(seconds: float, low: float, high: float) -> np.ndarray:
        count = int(seconds * SAMPLE_RATE)
        spectrum = np.fft.rfft(rng.standard_normal(count))
        frequencies = np.fft.rfftfreq(count, 1 / SAMPLE_RATE)
        return np.fft.irfft(spectrum / (1 + (low / (frequencies + 1)) ** 4 + (frequencies / high) ** 4), count)

    def decay(count: int, seconds: float) -> np.ndarray:
        return np.exp(-np.arange(count) / (seconds * SAMPLE_RATE))

    def tap() -> np.ndarray:
        x = noise(0.05, rng.uniform(300, 2000), rng.uniform(3000, 7500))
        return x * decay(len(x), rng.uniform(0.001, 0.006))

    def knock(low: float, high: float, seconds: float) -> np.ndarray:
        count = int(0.2 * SAMPLE_RATE)
        tone = np.sin(2 * np.pi * rng.uniform(low, high) * np.arange(count) / SAMPLE_RATE)
        return (tone + 0.5 * noise(0.2, 60, 1500)) * decay(count, seconds)

    if kind == "click":
        x = tap()
    elif kind == "knock":
        x = np.concatenate([knock(100, 500, 0.02)] * int(rng.integers(1, 4)))
    elif kind == "thud":
        x = knock(40, 120, 0.05)
    elif kind == "breath":
        x = noise(rng.uniform(0.15, 0.6), rng.uniform(200, 900), rng.uniform(2000, 6000))
        x = x * np.sin(np.linspace(0, np.pi, len(x))) ** rng.uniform(1, 3)
    elif kind == "keys":
        x = np.concatenate([np.pad(tap(), (0, int(rng.uniform(0.0, 0.1) * SAMPLE_RATE))) for _ in range(4)])
    elif kind == "laugh":  # voiced puffs at 4 to 6 per second, falling in pitch and loudness
        puffs, pitch, formant = int(rng.integers(3, 8)), rng.uniform(150, 400), rng.uniform(500, 1100)
        parts = []
        for puff in range(puffs):
            time = np.arange(int(rng.uniform(0.07, 0.12) * SAMPLE_RATE)) / SAMPLE_RATE
            hertz = np.arange(1, 12)[:, None] * pitch * (1 - 0.03 * puff)
            voiced = (np.sin(2 * np.pi * hertz * time) / (1 + ((hertz - formant) / 300) ** 2)).sum(axis=0)
            breath = noise(len(time) / SAMPLE_RATE, 500, 5000)
            shape = np.sin(np.linspace(0, np.pi, len(time))) * 0.85**puff
            parts += [
                (voiced + rng.uniform(0.1, 1.5) * breath[: len(time)]) * shape,
                np.zeros(int(0.09 * SAMPLE_RATE)),
            ]
        x = np.concatenate(parts)
    elif kind == "cough":
        x = noise(rng.uniform(0.15, 0.35), rng.uniform(150, 400), rng.uniform(1000, 3500))
        x = x * decay(len(x), rng.uniform(0.04, 0.12)) * np.minimum(np.arange(len(x)) / 150, 1)
    else:  # a chair or a door: a few harmonics that glide
        count = int(rng.uniform(0.1, 0.5) * SAMPLE_RATE)
        phase = 2 * np.pi * np.cumsum(np.linspace(*rng.uniform(400, 2500, 2), count)) / SAMPLE_RATE
        x = (np.sin(phase) + 0.4 * np.sin(2.01 * phase)) * np.sin(np.linspace(0, np.pi, count))
    return (x / np.sqrt(np.mean(np.square(x)))).astype(np.float32)
