# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Recorded conversations among the mixed ones: labels that follow the sound, backgrounds without speech, errors."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_sortformer.config.mixing import MixingConfig
from nemo_sortformer.data.manifest import ManifestError
from nemo_sortformer.data.mixing import (
    MixingDataset,
    PoolError,
    RecordedConversations,
    UtterancePool,
    simulate_conversation,
)
from nemo_sortformer.data.mixing.pool import ACTIVE_RMS
from nemo_sortformer.data.mixing.recorded import RecordedConversation
from nemo_sortformer.data.rttm import write_rttm
from nemo_sortformer.data.segment import Segment

RATE = 16_000
PITCH = {"Ann": 500.0, "Bob": 900.0, "Cem": 1300.0, "Dee": 1700.0, "Eva": 2100.0}
CONFIG = MixingConfig(session_seconds=8.0, speed_probability=0.0)


def meeting(
    *turns: tuple[float, float, str], seconds: float = 20.0, noise: float = 0.0, level: float = 0.2, seed: int = 0
) -> RecordedConversation:
    """A room in which each speaker hums at a pitch of their own; turns are (start, end, speaker)."""
    time = np.arange(round(seconds * RATE)) / RATE
    samples = noise * np.random.default_rng(seed).standard_normal(len(time))
    for start, end, speaker in turns:
        samples += level * np.sin(2 * np.pi * PITCH[speaker] * time) * ((time >= start) & (time < end))
    segments = tuple(Segment(*turn) for turn in turns)
    return RecordedConversation(samples.astype(np.float32), segments, f"meetings.jsonl:{seed + 1}")


TALK = ((0.5, 2.0, "Ann"), (2.75, 4.0, "Bob"), (5.0, 9.5, "Ann"), (10.3, 10.8, "Cem"), (12.0, 19.0, "Bob"))
CROWD = tuple((8.0 + 0.5 * k, 10.0 + 0.5 * k, name) for k, name in enumerate(PITCH))
# Between the turns are 0.71 s, 0.15 s at each end of which are not used: stretches hardly longer than 0.4 s.
BRIEF = tuple((k + 0.56, k + 0.85, "Ann") for k in range(20))
POOL = UtterancePool.from_arrays(
    {f"s{k}": [np.sin(np.arange(RATE) * (0.06 + 0.01 * k)).astype(np.float32)] for k in range(6)}
)


RECORDED, ROOM = RecordedConversations([meeting(*TALK)]), RecordedConversations([meeting(*BRIEF, noise=0.01)])
CROWDED = {limit: RecordedConversations([meeting(*CROWD)], max_speakers=limit) for limit in range(1, 5)}


def at_factor(factor: float, **changes) -> MixingConfig:
    changes = {"speed_range": [factor, factor], "speed_probability": 1.0, **changes}
    return dataclasses.replace(CONFIG, **changes)


def write_meetings(folder: Path, *meetings: RecordedConversation, **keys) -> Path:
    """Audio, RTTM and a manifest; `keys` are put into each of its lines."""
    lines = []
    for number, one in enumerate(meetings):
        soundfile.write(folder / f"m{number}.wav", one.samples, RATE, subtype="FLOAT")
        write_rttm(folder / f"m{number}.rttm", one.segments, f"m{number}")
        lines.append({"audio_filepath": f"m{number}.wav", "rttm_filepath": f"m{number}.rttm", **keys})
    path = folder / "meetings.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


# --- Excerpts


@pytest.mark.parametrize("factor", [0.82, 1.0, 1.22])
@given(seed=st.integers(0, 10_000))
@settings(max_examples=15)
def test_the_labels_of_an_excerpt_follow_its_sound_at_any_factor(factor, seed):
    track, segments = RECORDED.excerpt(at_factor(factor), np.random.default_rng(seed))
    assert track.shape == (8 * RATE,)
    assert track.dtype == np.float32
    labelled = np.zeros(len(track), dtype=bool)
    for segment in segments:
        assert 0 <= segment.start < segment.end <= 8.0
        first, last = round(segment.start * RATE), round(segment.end * RATE)
        labelled[first:last] = True
        if segment.duration > 0.2:
            spectrum = np.abs(np.fft.rfft(track[first:last], 2**18))
            assert spectrum.argmax() * RATE / 2**18 == pytest.approx(PITCH[segment.speaker] * factor, abs=3)
    sounding = np.convolve(np.abs(track), np.ones(33) / 33, mode="same") > 0.2 * ACTIVE_RMS
    near_an_edge = np.convolve(np.abs(np.diff(labelled.astype(int), prepend=0)), np.ones(161), mode="same") > 0.5
    near_an_edge[[*range(80), *range(-80, 0)]] = True
    assert (sounding == labelled)[~near_an_edge].all()


def test_a_recording_that_is_shorter_than_a_conversation_is_followed_by_silence():
    recorded = RecordedConversations([meeting((0.5, 3.0, "Ann"), (4.0, 5.0, "Bob"), seconds=5.0)])
    for factor in (0.9, 1.0, 1.1):
        track, segments = recorded.excerpt(at_factor(factor), np.random.default_rng(0))
        assert [segment.speaker for segment in segments] == ["Ann", "Bob"]
        assert segments[-1].end == pytest.approx(5.0 / factor)
        assert np.abs(track[round(5.0 / factor * RATE) + 1 :]).max() == 0
        assert np.abs(track[round(4.99 / factor * RATE) - 400 :]).max() > ACTIVE_RMS
        assert np.abs(np.diff(track[round(5.0 / factor * RATE) - 20 :])).max() < 0.15 * ACTIVE_RMS  # without a click


@given(seed=st.integers(0, 10_000), limit=st.integers(1, 4), factor=st.sampled_from([0.9, 1.0, 1.2]))
@settings(max_examples=60)
def test_an_excerpt_never_has_more_speakers_than_allowed(seed, limit, factor):
    config = at_factor(factor, session_seconds=3.0)
    CROWDED[limit].check(config)
    _, segments = CROWDED[limit].excerpt(config, np.random.default_rng(seed))
    assert len({segment.speaker for segment in segments}) <= limit


def test_every_place_with_few_enough_speakers_is_used_and_the_others_are_not():
    config = dataclasses.replace(CONFIG, session_seconds=3.0)
    one = meeting(*CROWD)
    limited, unlimited = RecordedConversations([one], max_speakers=2), RecordedConversations([one])
    first, past = limited._starts(0, 3 * RATE)
    for begin in range(0, 17 * RATE, 487):
        heard = {s.speaker for s in one.segments if s.start < begin / RATE + 3.0 and s.end > begin / RATE}
        assert ((first <= begin) & (begin < past)).any() == (len(heard) <= 2), begin / RATE
    starts = []
    for seed in range(400):  # the ramp tells where an excerpt comes from
        ramp = RecordedConversation(np.linspace(0, 1, 20 * RATE, dtype=np.float32), one.segments)
        starts.append(RecordedConversations([ramp], max_speakers=2).excerpt(config, np.random.default_rng(seed))[0][0])
    starts = np.array(starts) / np.max(starts) * 17
    share = (past - first)[0] / (past - first).sum()
    assert np.mean(starts < 9.0) == pytest.approx(share, abs=0.07)
    roomy = RecordedConversations([one], max_speakers=5)
    for seed in range(5):  # a limit that does not bind changes no draw
        tracks = [each.excerpt(config, np.random.default_rng(seed))[0] for each in (unlimited, roomy)]
        np.testing.assert_array_equal(*tracks)


def test_a_recording_that_is_crowded_throughout_is_named_before_training_begins(tmp_path):
    crowd = tuple((0.0, 20.0, name) for name in PITCH)
    path = write_meetings(tmp_path, meeting(*TALK), meeting(*crowd))
    config = dataclasses.replace(CONFIG, recorded_manifest=str(path), recorded_share=1.0)
    with pytest.raises(PoolError, match=r"meetings\.jsonl:2: more than 4 speakers .* `session_seconds`"):
        MixingDataset(config, num_slots=4, pool=POOL)
    MixingDataset(dataclasses.replace(config, recorded_share=0.0), num_slots=4, pool=POOL)  # backgrounds only
    data = MixingDataset(config, num_slots=5, pool=POOL)
    assert max(int(data.conversation(0, 0, n).targets.any(0).sum()) for n in range(10)) == 5


def test_crowded_places_of_a_recording_never_stop_a_training_run(tmp_path):
    path = write_meetings(tmp_path, meeting(*CROWD, seconds=30.0))
    config = dataclasses.replace(
        CONFIG, recorded_manifest=str(path), recorded_share=1.0, speed_probability=1.0, speaker_count_weights=[1, 1]
    )
    data = MixingDataset(config, num_slots=2, pool=POOL)
    assert {int(data.conversation(0, 0, n).targets.any(0).sum()) for n in range(40)} <= {0, 1, 2}


# --- Level


def test_speech_comes_to_the_level_of_the_pool_however_much_silence_there_is():
    for turns in (((1.0, 3.2, "Ann"),), TALK):
        one = meeting(*turns, seconds=60.0, noise=1e-3, level=0.01)
        samples = RecordedConversations([one]).conversations[0].samples
        spoken = np.concatenate([samples[round(a * RATE) : round(b * RATE)] for a, b, _ in turns])
        assert np.sqrt(np.mean(spoken**2)) == pytest.approx(ACTIVE_RMS, rel=0.02)


def test_the_noise_of_a_recording_without_speech_does_not_come_to_the_level_of_speech():
    talk, room = meeting(*TALK, noise=1e-3, level=0.02), meeting(noise=1e-3, seed=1)
    few_words = meeting((3.0, 3.5, "Ann"), noise=1e-3, level=0.002, seed=2)
    levels = [
        np.sqrt(np.mean(one.samples[-RATE // 2 :] ** 2))
        for one in RecordedConversations([talk, room, few_words]).conversations
    ]
    np.testing.assert_allclose(levels, levels[0], rtol=0.05)
    assert levels[0] < 0.1 * ACTIVE_RMS


def test_silent_recordings_give_silence_and_no_background_and_are_refused_with_labels():
    recorded = RecordedConversations([meeting()])
    track, segments = recorded.excerpt(CONFIG, np.random.default_rng(0))
    assert np.abs(track).max() == 0
    assert segments == []
    assert recorded.background(RATE, np.random.default_rng(0)) is None
    config = dataclasses.replace(CONFIG, recorded_noise_probability=1.0, recorded_share=0.5)
    for seed in range(4):
        assert np.isfinite(simulate_conversation(POOL, config, np.random.default_rng(seed), recorded)[0]).all()
    with pytest.raises(PoolError, match=r"meetings\.jsonl:1: is silent where its labels say"):
        RecordedConversations([meeting(*TALK, level=0.0)])


# --- Backgrounds


def test_a_background_holds_no_speech_even_where_labels_are_late_or_early():
    late = [(start + 0.1, end - 0.1, name) for start, end, name in TALK]
    sound = meeting(*TALK, noise=0.01).samples
    recorded = RecordedConversations([RecordedConversation(sound, tuple(Segment(*turn) for turn in late))])
    for seed in range(5):
        track = recorded.background(10 * RATE, np.random.default_rng(seed))
        power = np.abs(np.fft.rfft(track * np.hanning(len(track)))) ** 2
        hertz = np.fft.rfftfreq(len(track), 1 / RATE)
        around = np.median(power)
        for pitch in PITCH.values():
            assert power[np.abs(hertz - pitch) < 5].mean() < 4 * around
    heard = sound[: 10 * RATE]  # the same measure finds the speech where it is
    power = np.abs(np.fft.rfft(heard * np.hanning(len(heard)))) ** 2
    assert power[np.abs(hertz - PITCH["Ann"]) < 5].mean() > 1000 * np.median(power)


@given(num_samples=st.integers(1, 40_000), seed=st.integers(0, 100))
@settings(max_examples=40)
def test_a_background_is_even_from_the_first_to_the_last_sample(num_samples, seed):
    track = ROOM.background(num_samples, np.random.default_rng(seed))
    assert track.shape == (num_samples,)
    assert track.dtype == np.float32
    assert np.sqrt(np.mean(track**2, dtype=np.float64)) == pytest.approx(ACTIVE_RMS, rel=1e-3)
    if num_samples >= 640:
        for frame in (track[:320], track[-320:], *np.split(track[: num_samples // 320 * 320], num_samples // 320)):
            assert 0.75 < np.sqrt(np.mean(frame**2)) / ACTIVE_RMS < 1.25


def test_without_a_stretch_without_speech_the_noise_is_drawn():
    recorded = RecordedConversations([meeting((0.0, 20.0, "Ann"))])
    assert recorded.background(RATE, np.random.default_rng(0)) is None
    config = dataclasses.replace(CONFIG, recorded_share=0.0, recorded_noise_probability=1.0, noise_probability=1.0)
    audio, _ = simulate_conversation(POOL, config, np.random.default_rng(0), recorded)
    assert np.isfinite(audio).all()


# --- Shares and repeatability


class Counting(RecordedConversations):
    """Counts how often it is asked."""

    excerpts = backgrounds = 0

    def excerpt(self, config, rng):
        self.excerpts += 1
        return super().excerpt(config, rng)

    def background(self, num_samples, rng):
        self.backgrounds += 1
        return super().background(num_samples, rng)


@pytest.mark.parametrize("share, noise", [(0.0, 0.0), (0.3, 0.6), (1.0, 1.0)])
def test_excerpts_and_backgrounds_have_the_shares_asked_for(share, noise):
    config = dataclasses.replace(
        CONFIG, session_seconds=1.0, recorded_share=share, recorded_noise_probability=noise, reverb_probability=0.0
    )
    recorded = Counting([meeting(*TALK, noise=0.001)])
    real = 0
    for seed in range(300):
        _, segments = simulate_conversation(POOL, config, np.random.default_rng(seed), recorded)
        real += bool({segment.speaker for segment in segments} & PITCH.keys())
    assert recorded.excerpts / 300 == pytest.approx(share, abs=0.08)
    assert recorded.backgrounds / max(300 - recorded.excerpts, 1) == pytest.approx(noise if share < 1 else 0, abs=0.08)
    assert real <= recorded.excerpts
    assert real > 0.5 * recorded.excerpts - 1


def test_conversations_with_recorded_ones_are_a_function_of_their_numbers(tmp_path):
    path = write_meetings(tmp_path, meeting(*TALK, noise=0.001), meeting(*CROWD, noise=0.001, seed=1))
    config = dataclasses.replace(
        CONFIG, session_seconds=3.0, speed_probability=0.8, recorded_manifest=str(path), recorded_share=0.5
    )
    first, again = (MixingDataset(config, num_slots=4, seed=3, pool=POOL) for _ in range(2))
    for number in range(12):
        one, other = first.conversation(0, 0, number), again.conversation(0, 0, number)
        assert torch.equal(one.audio, other.audio)
        assert torch.equal(one.targets, other.targets)
        assert not torch.equal(one.audio, first.conversation(1, 0, number).audio)


def test_settings_of_recorded_conversations_change_nothing_where_there_are_none():
    changed = dataclasses.replace(CONFIG, recorded_share=1.0, recorded_noise_probability=1.0)
    one, other = (simulate_conversation(POOL, c, np.random.default_rng(1)) for c in (CONFIG, changed))
    np.testing.assert_array_equal(one[0], other[0])
    assert one[1] == other[1]


# --- The manifest


def test_a_manifest_gives_the_stretch_its_offset_and_duration_say(tmp_path):
    path = write_meetings(tmp_path, meeting(*TALK, noise=0.001), offset=3.0, duration=9.0, split="train")
    recorded = RecordedConversations.from_manifest(path, split="train")
    (one,) = recorded.conversations
    assert len(one.samples) == 9 * RATE
    assert [(round(s.start, 6), round(s.end, 6), s.speaker) for s in one.segments] == [
        (0.0, 1.0, "Bob"), (2.0, 6.5, "Ann"), (7.3, 7.8, "Cem"),
    ]  # fmt: skip
    with pytest.raises(PoolError, match=r"`recorded_split` 'dev' leaves no recording; there are train"):
        RecordedConversations.from_manifest(path, split="dev")


def missing_audio(folder):
    (folder / "m1.wav").unlink()


def missing_labels(folder):
    (folder / "m1.rttm").unlink()


def bad_label(folder):
    (folder / "m1.rttm").write_text("SPEAKER m1 1 -3.0 1.0 <NA> <NA> Ann <NA> <NA>\n")


def too_short(folder):
    soundfile.write(folder / "m1.wav", np.zeros(RATE // 50), RATE)


def truncated(folder):
    (folder / "m1.wav").write_bytes((folder / "m1.wav").read_bytes()[:100_000])


@pytest.mark.parametrize(
    "damage, found",
    [
        (missing_audio, "there is no such file"),
        (missing_labels, "m1.rttm"),
        (bad_label, r"m1\.rttm:1: "),
        (too_short, "must have 1 s or more, but has 0.020 s"),
        (truncated, "truncated"),
    ],
)
def test_an_unusable_recording_is_named_with_the_line_of_the_manifest(tmp_path, damage, found):
    path = write_meetings(tmp_path, meeting(*TALK), meeting(*TALK))
    damage(tmp_path)
    with pytest.raises(PoolError, match=rf"meetings\.jsonl:2: .*{found}"):
        RecordedConversations.from_manifest(path)


def test_a_recording_without_labels_is_named_with_its_line(tmp_path):
    path = write_meetings(tmp_path, meeting(*TALK), rttm_filepath=None)
    with pytest.raises(ManifestError, match=r"^\S*meetings\.jsonl:1: has neither `rttm_filepath`"):
        RecordedConversations.from_manifest(path)


def test_real_meetings_give_labelled_excerpts_and_backgrounds(speech_data):
    config = MixingConfig(
        session_seconds=16.0, recorded_manifest=str(speech_data / "conversations/manifest.jsonl"),
        recorded_split="train", recorded_share=0.5, recorded_noise_probability=1.0,
    )  # fmt: skip
    data = MixingDataset(config, num_slots=4, pool=POOL)
    items = [data.conversation(0, 0, number) for number in range(20)]
    assert all(bool(torch.isfinite(item.audio).all()) for item in items)
    for seed in range(5):
        track, segments = data.recorded.excerpt(config, np.random.default_rng(seed))
        speech = np.zeros(len(track), dtype=bool)
        for segment in segments:
            speech[round(segment.start * RATE) : round(segment.end * RATE)] = True
        if speech.sum() > 2 * RATE and (~speech).sum() > 2 * RATE:
            assert np.mean(track[speech] ** 2) > 3 * np.mean(track[~speech] ** 2)
