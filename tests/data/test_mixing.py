# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Mixed conversations: what they promise about labels, levels, overlap, silence and repeatability."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import fft, signal

from nemo_sortformer.config.mixing import MixingConfig
from nemo_sortformer.data.mixing import (
    PoolError,
    UtterancePool,
    acoustics,
    build_pool,
    simulate_conversation,
)
from nemo_sortformer.data.mixing.conversation import SYNTHETIC, plan_conversation
from nemo_sortformer.data.mixing.simulate import dry_tracks, plan_segments

RATE = 16_000
CLEAN = MixingConfig(
    session_seconds=12.0, reverb_probability=0, noise_probability=0, event_share=0, tilt_db=0, lowpass_probability=0,
    telephone_probability=0, level_db=0, distant_probability=0, output_dbfs=[-26, -26],
)  # fmt: skip


def tone(hertz: float, seconds: float, level: float = 0.1) -> np.ndarray:
    time = np.arange(int(seconds * RATE)) / RATE
    return (level * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def make_pool(num_speakers: int = 8) -> UtterancePool:
    """Speakers that hum at pitches of their own, in utterances of 0.5 to 6 s."""
    seconds = (0.5, 1.2, 6.0)
    return UtterancePool.from_arrays(
        {f"s{k}": [tone(150 + 60 * k, length, 0.02 * (k + 1)) for length in seconds] for k in range(num_speakers)}
    )


POOL = make_pool()


def mix(seed: int, config: MixingConfig = CLEAN, pool: UtterancePool = POOL):
    return simulate_conversation(pool, config, np.random.default_rng(seed))


def turns(seed: int, config: MixingConfig = CLEAN, pool: UtterancePool = POOL):
    """Segments without their audio."""
    return plan_segments(pool, plan_conversation(pool, config, np.random.default_rng(seed)))


def activity(segments, seconds: float) -> np.ndarray:
    """Number of voices at each sample."""
    count = np.zeros(round(seconds * RATE) + 1, dtype=int)
    for start, end, _ in segments:
        count[round(start * RATE)] += 1
        count[round(end * RATE)] -= 1
    return np.cumsum(count)[:-1]


# --- The plan


@given(seed=st.integers(0, 10_000))
@settings(max_examples=60)
def test_a_voice_never_overlaps_itself_and_all_stays_inside(seed):
    plan = plan_conversation(
        POOL, MixingConfig(session_seconds=16.0, overlap_free_share=0), np.random.default_rng(seed)
    )
    end_of: dict[int, float] = {}
    assert plan.pieces
    for piece in plan.pieces:
        assert piece.position >= end_of.get(piece.voice, 0)
        end_of[piece.voice] = piece.position + piece.length(plan.voices[piece.voice].factor)
        utterance = POOL.speakers[plan.voices[piece.voice].speaker].utterances[piece.utterance]
        assert piece.start >= 0
        assert piece.start + piece.count <= utterance.count
    assert max(end_of.values()) <= plan.num_samples + 1


def test_overlap_is_absent_where_it_is_forbidden_and_there_where_it_is_wanted():
    never = dataclasses.replace(CLEAN, overlap_free_share=1.0)
    often = dataclasses.replace(CLEAN, overlap_free_share=0.0, speaker_count_weights=[0, 0, 1], sparse_share=0)
    assert all((activity(turns(seed, never), 12.0) <= 1).all() for seed in range(20))
    shares = []
    for seed in range(60):
        count = activity(turns(seed, often), 12.0)
        shares.append((count > 1).sum() / (count > 0).sum())
    assert 0.08 < np.mean(shares) < 0.3
    assert max(shares) > 0.3


def test_sparse_conversations_are_silent_for_about_the_share_asked_for():
    silent = {}
    for share in (0.0, 1.0):
        config = dataclasses.replace(
            CLEAN, sparse_share=share, sparse_silence=[0.5, 0.5], overlap_free_share=1.0, session_seconds=60.0
        )
        silent[share] = np.mean([(activity(turns(seed, config), 60.0) == 0).mean() for seed in range(20)])
    assert silent[0.0] < 0.3
    assert 0.4 < silent[1.0] < 0.65


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_number_of_speakers_is_the_one_asked_for(count):
    config = dataclasses.replace(CLEAN, speaker_count_weights=[0] * (count - 1) + [1], session_seconds=40.0)
    heard = [len({segment.speaker for segment in turns(seed, config)}) for seed in range(20)]
    assert max(heard) == count
    assert np.mean(heard) > count - 0.3


def test_one_voice_at_two_speeds_can_be_two_speakers():
    config = dataclasses.replace(CLEAN, same_voice_probability=1.0, speaker_count_weights=[0, 1])
    for seed in range(10):
        first, second = plan_conversation(POOL, config, np.random.default_rng(seed)).voices
        assert first.speaker == second.speaker
        assert first.name != second.name
        assert max(first.factor, second.factor) / min(first.factor, second.factor) >= 1.25 - 1e-9


def test_conversations_of_one_source_stay_in_it():
    both = POOL.merged(UtterancePool.from_arrays({f"z{k}": [tone(900, 2.0)] for k in range(5)}, source="other"))
    config = dataclasses.replace(CLEAN, same_source_probability=1.0, speaker_count_weights=[0, 0, 1])
    sources = [
        {both.speakers[v.speaker].source for v in plan_conversation(both, config, np.random.default_rng(n)).voices}
        for n in range(40)
    ]
    assert all(len(found) == 1 for found in sources)
    assert set().union(*sources) == {"arrays", "other"}


def test_synthetic_speakers_talk_among_themselves_in_the_share_asked_for():
    made = UtterancePool.from_arrays({f"m{k}": [tone(900, 2.0)] for k in range(5)}, source=SYNTHETIC)
    both = POOL.merged(made)
    config = dataclasses.replace(CLEAN, synthetic_share=0.3, speaker_count_weights=[0, 0, 1])
    kinds = [
        {both.speakers[v.speaker].source for v in plan_conversation(both, config, np.random.default_rng(n)).voices}
        for n in range(200)
    ]
    assert all(len(kind) == 1 for kind in kinds)
    assert 0.2 < np.mean([SYNTHETIC in kind for kind in kinds]) < 0.4
    few = make_pool(2).merged(made)  # too few recorded ones alone
    assert plan_conversation(few, dataclasses.replace(config, synthetic_share=0), np.random.default_rng(0)).pieces


def test_too_few_speakers_say_how_many_there_are():
    with pytest.raises(PoolError, match="there are 2"):
        mix(0, dataclasses.replace(CLEAN, speaker_count_weights=[0, 0, 1]), make_pool(2))


# --- The audio


def test_filtering_in_blocks_equals_convolution():
    rng = np.random.default_rng(1)
    tracks = rng.standard_normal((3, 50_001)).astype(np.float32)
    kernels = rng.standard_normal((3, 4000)) * np.exp(-np.arange(4000) / 500)
    responses = np.zeros((3, acoustics.SIZE))
    responses[:, acoustics.DELAY : acoustics.DELAY + 4000] = kernels
    expected = sum(signal.fftconvolve(track, kernel)[:50_001] for track, kernel in zip(tracks, kernels, strict=True))
    got = acoustics.render(tracks, fft.rfft(responses), gain=2.0)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, 2 * expected, atol=2e-3)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20)
def test_clean_audio_is_the_dry_sum_and_silent_where_no_one_speaks(seed):
    audio, segments = mix(seed)
    plan = plan_conversation(POOL, CLEAN, np.random.default_rng(seed))
    assert segments == plan_segments(POOL, plan)
    dry = dry_tracks(POOL, plan).sum(axis=0)
    voices = activity(segments, 12.0)
    silent = np.convolve(voices > 0, np.ones(5), mode="same") < 0.5  # a resampled end may be a sample off
    assert np.abs(dry[silent]).max(initial=0) == 0
    hums = np.sqrt(np.convolve(dry**2, np.ones(321) / 321, mode="same"))
    edges = np.convolve(np.abs(np.diff(voices, prepend=0)), np.ones(1201), mode="same") > 0.5
    assert (hums[(voices == 1) & ~edges] > 0.02).all()  # every voice hums all the time that it speaks
    frames = np.sqrt(np.mean(audio.reshape(-1, 800) ** 2, axis=1))
    assert (frames[np.convolve(~silent.reshape(-1, 800).all(axis=1), np.ones(3), mode="same") < 0.5] < 1e-3).all()
    assert (frames[(voices == 1).reshape(-1, 800).all(axis=1)] > 1e-3).all()  # the channel shapes, but all is heard


@given(seed=st.integers(0, 10_000))
@settings(max_examples=15)
def test_a_recording_is_finite_loud_enough_and_never_clips(seed):
    config = MixingConfig(session_seconds=5.0, telephone_probability=0.3)
    audio, _ = mix(seed, config)
    assert audio.dtype == np.float32
    assert audio.shape == (5 * RATE,)
    assert np.isfinite(audio).all()
    assert np.abs(audio).max() <= acoustics.CEILING + 1e-6
    assert np.sqrt(np.mean(audio**2)) > 1e-4


def test_rooms_do_not_delay_speech_and_ring_after_it():
    bank = np.fft.irfft(acoustics.room_bank(0.1, 0.7))
    assert bank.shape[:2] == (acoustics.NUM_ROOMS, acoustics.PLACES)
    assert (np.abs(bank).argmax(axis=-1)[:, :-1] == acoustics.DELAY).mean() > 0.95
    assert np.abs(bank[..., : acoustics.DELAY]).max() < 1e-6
    np.testing.assert_allclose(np.square(bank).sum(axis=-1), 1, rtol=1e-4)
    late = np.square(bank[..., acoustics.DELAY + 1600 :]).sum(axis=-1).mean(axis=-1)  # after 100 ms
    assert late[-1] > 20 * late[0]


def test_the_noise_has_the_ratio_asked_for():
    config = dataclasses.replace(
        CLEAN, noise_probability=1.0, noise_snr_db=[10, 10], speaker_count_weights=[1], overlap_free_share=1.0
    )
    ratios = []
    for seed in range(20):
        audio, segments = mix(seed, config)
        speech = activity(segments, 12.0) > 0
        away = np.convolve(speech, np.ones(3201), mode="same") < 0.5
        if away.sum() > RATE and speech.sum() > RATE:
            ratios.append(10 * np.log10(np.mean(audio[speech] ** 2) / np.mean(audio[away] ** 2) - 1))
    assert len(ratios) > 8
    assert abs(np.median(ratios) - 10) < 4  # the channel shapes speech and noise differently


def test_the_output_level_is_the_one_asked_for():
    levels = []
    for dbfs in (-36.0, -26.0):
        audio, segments = mix(3, dataclasses.replace(CLEAN, output_dbfs=[dbfs, dbfs]))
        levels.append(20 * np.log10(np.sqrt(np.mean(audio[activity(segments, 12.0) == 1] ** 2))))
    assert levels[1] - levels[0] == pytest.approx(10, abs=0.01)


def test_mu_law_has_255_levels_and_keeps_the_signal():
    audio = tone(440, 1.0, 0.5)
    line = acoustics.mu_law(audio)
    assert 50 < len(np.unique(line)) <= 255
    assert 30 < 10 * np.log10(np.mean(audio**2) / np.mean((line - audio) ** 2)) < 45


def test_the_bank_of_noises_wraps_without_a_click_and_has_unit_power():
    bank = acoustics.noise_bank()
    np.testing.assert_allclose(bank.std(axis=1), 1, rtol=1e-3)
    steps = np.abs(np.diff(bank, axis=1))
    assert (np.abs(bank[:, 0] - bank[:, -1]) <= steps.max(axis=1)).all()


# --- Labels


def test_long_pauses_inside_an_utterance_are_labelled_as_silence_on_request():
    speech = np.concatenate([tone(200, 1.0), np.zeros(RATE, np.float32), tone(200, 1.0)])
    pool = UtterancePool.from_arrays({"a": [speech]})
    config = dataclasses.replace(
        CLEAN, speaker_count_weights=[1], turn_seconds=[4.0, 4.0], speed_probability=0, gap_seconds=0.1
    )
    plan = plan_conversation(pool, config, np.random.default_rng(0))
    whole, parts = plan_segments(pool, plan), plan_segments(pool, plan, 0.5)
    assert whole[0].duration == pytest.approx(3.0)
    assert [round(segment.duration, 3) for segment in parts[:2]] == [1.0, 1.0]
    assert parts[1].start - parts[0].end == pytest.approx(1.0)
    assert plan_segments(pool, plan, 1.5) == whole


def test_real_voices_give_varied_conversations(speech_data):
    config = MixingConfig(manifest=str(speech_data / "pool/manifest.jsonl"), split="dev", session_seconds=16.0)
    pool = build_pool(config)
    shares = []
    for seed in range(40):
        count = activity(turns(seed, config, pool), 16.0)
        shares.append(((count == 0).mean(), (count > 1).sum() / (count > 0).sum()))
    assert np.abs(mix(0, config, pool)[0]).max() <= acoustics.CEILING + 1e-6
    silent, overlapped = np.array(shares).T
    assert silent.min() < 0.12
    assert silent.max() > 0.4
    assert (overlapped == 0).any()
    assert overlapped.max() > 0.2
