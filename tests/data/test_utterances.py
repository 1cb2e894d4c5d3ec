# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Sessions of whole utterances: words that are where the sound is, layouts as set, repeatable, as files."""

import dataclasses
import json

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

from nemo_sortformer.config.utterances import UtteranceMixingConfig
from nemo_sortformer.data.joint_batch import collate_joint
from nemo_sortformer.data.joint_dataset import JointDataset
from nemo_sortformer.data.manifest import read_manifest
from nemo_sortformer.data.mixing import PoolError, UtteranceMixingDataset, UtterancePool, mix_session, write_sessions
from nemo_sortformer.data.mixing.pool import Recording
from nemo_sortformer.data.mixing.utterances import plan_session, session_utterances
from nemo_sortformer.data.speaker_tokenizer import SpeakerTagError, SpeakerTokenizer
from nemo_sortformer.data.spoken_words import WordsError, utterance_segments
from nemo_sortformer.data.targets import frame_targets
from nemo_sortformer.data.text_labels import TextLabeler
from nemo_sortformer.functional.serialized import per_speaker

RATE = 16_000
LEAD = 1600
WORDS = ("yes", "go on", "stop there now", "nine")


def hum(hertz: float, seconds: float) -> np.ndarray:
    """A tone between two silences of 0.1 s."""
    time = np.arange(int(seconds * RATE)) / RATE
    return np.pad(0.1 * np.sin(2 * np.pi * hertz * time), LEAD).astype(np.float32)


def make_pool(words=WORDS, speakers=6) -> UtterancePool:
    """Speakers who hum at pitches of their own; the length tells the text: 0.5, 1.0, 1.5, ... s."""
    return UtterancePool(
        Recording(f"s{k}", "hum", hum(200 + 150 * k, 0.5 + 0.5 * n), {"words": text}, LEAD, LEAD)
        for k in range(speakers)
        for n, text in enumerate(words)
    )


POOL = make_pool()
CONFIG = UtteranceMixingConfig(sessions_per_epoch=6, silent_share=0.0, max_session_seconds=12.0)
CLEAN = dataclasses.replace(
    CONFIG, reverb_probability=0.0, noise_probability=0.0, event_share=0.0, telephone_probability=0.0, tilt_db=0.0,
    lowpass_probability=0.0, distant_probability=0.0, level_db=0.0,
)  # fmt: skip


def labeler(letters, **options):
    tokenizers = {name: SpeakerTokenizer(letters(), 4) for name in ("asr", "ctc")}
    return TextLabeler(tokenizers, 4, levels={"ctc": "word"}, **options)


def sessions(config, count=60, pool=POOL):
    return [session_utterances(pool, plan_session(pool, config, np.random.default_rng(n))) for n in range(count)]


# --- Layout


CROWDED = dataclasses.replace(
    CONFIG, overlap_probability=[1, 1], overlap_share=[0.5, 1.0], speaker_count_weights=[0, 1, 1], utterances=[6, 6]
)


@pytest.mark.parametrize("config", [CONFIG, CROWDED])
def test_utterances_are_whole_and_a_speaker_never_overlaps_themselves(config):
    for told in sessions(config):
        by_speaker = {}
        for one in told:
            factor = float(one.speaker.rpartition("x")[2])
            expected = 0.5 + 0.5 * WORDS.index(one.texts["words"])
            assert one.end - one.start == pytest.approx(expected / factor, rel=1e-3)
            assert one.start >= by_speaker.get(one.speaker, -1.0)
            by_speaker[one.speaker] = one.end
            assert 0 <= one.start < one.end <= 12.0 + 0.6
        assert 1 <= len(by_speaker) <= 3
        assert len(told) <= 6


def test_speaker_counts_and_numbers_of_utterances_are_as_set():
    config = dataclasses.replace(CONFIG, speaker_count_weights=[0, 1], utterances=[3, 4], max_session_seconds=60.0)
    for told in sessions(config):
        assert len({one.speaker for one in told}) == 2
        assert 3 <= len(told) <= 4


def overlap_share(told):
    edges = sorted({edge for one in told for edge in (one.start, one.end)})
    counts = [(b - a, sum(one.start <= a and one.end >= b for one in told)) for a, b in zip(edges, edges[1:])]
    return sum(length for length, count in counts if count > 1) / sum(length for length, count in counts if count)


def test_overlap_is_adjustable_from_none_to_much():
    shares = []
    for probability in (0.0, 0.5, 1.0):
        config = dataclasses.replace(
            CONFIG, overlap_probability=[probability] * 2, speaker_count_weights=[0, 1], max_session_seconds=60.0
        )
        shares.append(np.mean([overlap_share(told) for told in sessions(config)]))
    assert shares[0] == 0.0
    assert shares[0] < shares[1] < shares[2]
    assert shares[2] > 0.1


def test_an_overlap_is_a_share_of_the_shorter_utterance():
    config = dataclasses.replace(
        CONFIG, overlap_probability=[1, 1], overlap_share=[0.5, 0.5], speaker_count_weights=[0, 1], utterances=[2, 2]
    )
    for one, after in sessions(config, 20):
        shorter = min(one.end - one.start, after.end - after.start)
        assert one.end - after.start == pytest.approx(0.5 * shorter, abs=1e-3)


def test_gaps_are_those_that_are_set():
    config = dataclasses.replace(
        CONFIG, overlap_probability=[0, 0], gap_seconds=[0.3, 0.5], lead_seconds=[0.2, 0.2], max_session_seconds=60.0
    )
    for told in sessions(config, 20):
        assert told[0].start == pytest.approx(0.2, abs=1e-3)
        for one, after in zip(told, told[1:]):
            assert 0.3 - 1e-3 <= after.start - one.end <= 0.5 + 1e-3


def test_some_sessions_are_silent_if_wished(letters):
    config = dataclasses.replace(CONFIG, silent_share=1.0)
    item = UtteranceMixingDataset(config, labeler(letters), pool=POOL).conversation(0, 0, 0)
    assert item.targets.sum() == 0
    assert item.texts["asr"] == ([], [[], [], [], []])
    assert RATE <= len(item.audio) <= 12 * RATE


# --- Sound


def test_the_speech_sounds_where_the_words_are():
    for seed in range(12):
        audio, told = mix_session(POOL, CLEAN, np.random.default_rng(seed))
        spoken = np.zeros(len(audio), dtype=bool)
        for one in told:
            spoken[round(one.start * RATE) : round(one.end * RATE)] = True
        power = np.convolve(audio**2, np.ones(160) / 160, mode="same")
        loud = power > 0.05 * power[spoken].mean()
        near = np.convolve(np.abs(np.diff(spoken.astype(int), prepend=0)), np.ones(700), mode="same") > 0.5
        assert (loud == spoken)[~near].mean() > 0.99


def test_speed_moves_times_and_pitch_but_no_text():
    config = dataclasses.replace(
        CLEAN, speed_range=[1.25, 1.25], speed_probability=1.0, speaker_count_weights=[1], utterances=[1, 1]
    )
    audio, (one,) = mix_session(POOL, config, np.random.default_rng(3))
    expected = 0.5 + 0.5 * WORDS.index(one.texts["words"])
    assert one.end - one.start == pytest.approx(expected / 1.25, rel=1e-3)
    stretch = audio[round(one.start * RATE) : round(one.end * RATE)]
    pitch = np.abs(np.fft.rfft(stretch, 2**18)).argmax() * RATE / 2**18
    assert pitch == pytest.approx(1.25 * (200 + 150 * int(one.speaker[1])), abs=4)


# --- The data set


def test_tokens_say_what_is_said_in_the_slots_of_the_targets(letters):
    data = UtteranceMixingDataset(CONFIG, labeler(letters), pool=POOL)
    for number in range(25):
        item = data.conversation(0, 0, number)
        audio, told = mix_session(POOL, CONFIG, data.generator(0, 0, number))
        said = {}
        for name in {one.speaker for one in told}:  # each alone, so that no order is needed
            own = [one for one in told if one.speaker == name]
            column = frame_targets(utterance_segments(own), num_samples=len(audio), num_slots=1)[:, 0]
            said[tuple(column)] = " ".join(one.texts["words"] for one in own)
        streams = [data.labeler.tokenizers["asr"].decode_text(stream) for stream in item.texts["asr"].streams]
        assert streams == [said.get(tuple(column), "") for column in item.targets.T.tolist()]
        assert sum(map(bool, streams)) == len(said)
        for name in ("asr", "ctc"):
            turns = data.labeler.tokenizers[name].decode(item.texts[name].serialized)
            assert list(dict.fromkeys(turn.speaker for turn in turns)) == list(range(len(said)))
            assert per_speaker(turns, 4) == streams


def same(first, second):
    return torch.equal(first.audio, second.audio) and first.texts == second.texts


def test_a_session_is_a_function_of_its_numbers(letters):
    def make(**options):
        return UtteranceMixingDataset(CONFIG, labeler(letters), pool=make_pool(), **{"seed": 5, **options})

    reference = make().conversation(1, 0, 2)
    assert same(reference, make().conversation(1, 0, 2))
    others = [make().conversation(*numbers) for numbers in [(2, 0, 2), (1, 1, 2), (1, 0, 3)]]
    others += [make(seed=6).conversation(1, 0, 2), make(rank=1, world_size=2).conversation(1, 0, 2)]
    assert not any(same(reference, other) for other in others)


def test_workers_and_ranks_share_the_epoch(letters):
    data = UtteranceMixingDataset(CONFIG, labeler(letters), pool=POOL, seed=5)
    loader = DataLoader(data, batch_size=None, num_workers=2)
    got = {item.recording: item for item in loader}
    assert len(got) == 6
    assert all(same(got[f"mixed-0-0-{w}-{n}"], data.conversation(0, w, n)) for w in range(2) for n in range(3))
    halves = [UtteranceMixingDataset(CONFIG, labeler(letters), pool=POOL, rank=r, world_size=2) for r in range(2)]
    assert [len(list(half)) for half in halves] == [3, 3]


@pytest.mark.parametrize(
    "changes, pool, error, match",
    [
        ({"speaker_count_weights": [1] * 5}, POOL, ValueError, "allows 5 speakers, but the model has 4 slots"),
        ({}, make_pool(speakers=2), PoolError, "allows 3 speakers, but the pool has 2"),
        ({"max_session_seconds": 0.5}, POOL, PoolError, "the shortest utterance may take 0.6 s"),
        ({}, make_pool(("go", "<spk0> on")), SpeakerTagError, "`<spk0>`"),
    ],
)
def test_what_cannot_be_mixed_is_named_before_training(letters, changes, pool, error, match):
    with pytest.raises(error, match=match):
        UtteranceMixingDataset(dataclasses.replace(CONFIG, **changes), labeler(letters), pool=pool)


def test_unknown_characters_of_the_pool_are_found_before_training(letters):
    with pytest.raises(WordsError, match="unknown_text"):
        UtteranceMixingDataset(CONFIG, labeler(letters, unknown_text="error"), pool=make_pool(("go", "ж")))


# --- As files


def test_written_sessions_read_back_as_they_were_mixed(letters, tmp_path):
    manifest = write_sessions(POOL, CONFIG, tmp_path, count=4, seed=9)
    data = JointDataset(manifest, labeler(letters), num_slots=4)
    for number, entry in enumerate(read_manifest(manifest)):
        audio, told = mix_session(POOL, CONFIG, np.random.default_rng([9, number]))
        written, rate = soundfile.read(entry.audio_filepath, dtype="float32")
        assert rate == RATE
        np.testing.assert_allclose(written, audio, atol=1e-4)
        records = json.loads(entry.seglst_filepath.read_text())
        assert [record["words"] for record in records] == [one.texts["words"] for one in told]
        item = data[number]
        mixed = UtteranceMixingDataset(CONFIG, labeler(letters), pool=POOL)
        mixed.generator = lambda *_, n=number: np.random.default_rng([9, n])
        expected = mixed.conversation(0, 0, 0)
        assert item.texts == expected.texts
        assert (item.targets != expected.targets).float().mean() < 0.01  # files have 1 ms
    again = write_sessions(POOL, CONFIG, tmp_path / "two", count=2, seed=9).parent
    assert (again / "session_00001.flac").read_bytes() == (tmp_path / "session_00001.flac").read_bytes()
    with pytest.raises(ValueError, match="`flac` or `wav`, but is `mp3`"):
        write_sessions(POOL, CONFIG, tmp_path, count=1, audio_format="mp3")


def test_batches_of_the_stream_collate(letters):
    made = UtteranceMixingDataset(CONFIG, labeler(letters), pool=POOL)
    batch = collate_joint(list(made), pad_ids=made.labeler.pad_ids)
    assert batch.targets.shape[::2] == (6, 4)
    assert batch.texts["asr"].stream_lengths.sum() > 0
