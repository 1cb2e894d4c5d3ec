# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The pool of voices: one level for all, cuts at pauses, factors, and the manifests it is read from."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from nemo_sortformer.config.mixing import MixingConfig
from nemo_sortformer.data.mixing import PoolError, UtterancePool, build_pool, pool_from_manifest
from nemo_sortformer.data.mixing.conversation import cut
from nemo_sortformer.data.mixing.pool import ACTIVE_RMS, measure

RATE = 16_000


def tone(hertz: float, seconds: float, level: float = 0.1) -> np.ndarray:
    time = np.arange(int(seconds * RATE)) / RATE
    return (level * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def make_pool() -> UtterancePool:
    """Eight speakers that hum at pitches of their own, in utterances of 0.5 to 6 s and at levels of their own."""
    return UtterancePool.from_arrays(
        {f"s{k}": [tone(150 + 60 * k, length, 0.02 * (k + 1)) for length in (0.5, 1.2, 6.0)] for k in range(8)}
    )


POOL = make_pool()


# --- The pool


def test_all_utterances_have_one_level_whatever_their_own():
    levels = []
    for index, speaker in enumerate(POOL.speakers):
        for number, utterance in enumerate(speaker.utterances):
            x = POOL.piece(index, number, start=0, count=utterance.count, factor=1.0)[100:-100]
            levels.append(np.sqrt(np.mean(x**2)))
    np.testing.assert_allclose(levels, ACTIVE_RMS, rtol=0.02)


def test_the_level_is_that_of_the_active_part():
    speech = np.concatenate([tone(200, 1.0), np.zeros(3 * RATE, np.float32), tone(200, 1.0)])
    level, pauses = measure(speech)
    assert level == pytest.approx(0.1 / np.sqrt(2), rel=0.01)
    assert pauses.tolist() == [[RATE, 4 * RATE]]


def test_a_factor_raises_the_pitch_and_shortens():
    x = POOL.piece(0, 2, start=0, count=4 * RATE, factor=1.25)
    assert len(x) == pytest.approx(4 * RATE / 1.25, abs=2)
    spectrum = np.abs(np.fft.rfft(x * np.hanning(len(x))))
    assert spectrum.argmax() * RATE / len(x) == pytest.approx(150 * 1.25, abs=1)


def test_short_and_silent_utterances_are_left_out_and_an_empty_pool_says_what_to_look_at():
    pool = UtterancePool.from_arrays({"a": [tone(200, 1.0), tone(200, 0.1), np.zeros(RATE, np.float32)]})
    assert len(pool.speakers[0].utterances) == 1
    with pytest.raises(PoolError, match="`exclude_sources`"):
        UtterancePool.from_arrays({"a": [tone(200, 0.1)]})


def test_merging_keeps_the_audio_of_both():
    other = UtterancePool.from_arrays({"z": [tone(1000, 1.0)]}, source="other")
    both = POOL.merged(other)
    assert len(both) == len(POOL) + 1
    np.testing.assert_array_equal(
        both.piece(len(POOL), 0, start=100, count=800, factor=1.1), other.piece(0, 0, start=100, count=800, factor=1.1)
    )
    assert both.sources["other"].tolist() == [len(POOL)]


def test_a_cut_goes_from_pause_to_pause_and_is_never_longer_than_wanted():
    pauses = np.array([[1000, 1200], [3000, 3400], [5000, 5100]])
    rng = np.random.default_rng(0)
    cuts = {cut(8000, pauses, 4000, rng) for _ in range(300)}
    assert (0, 3000) in cuts  # from the start to the last pause that is near enough
    assert (1200, 3800) in cuts  # 1200 .. 5000
    assert all(count <= 4000 and start + count <= 8000 for start, count in cuts)
    assert cut(800, pauses[:0], 1000, rng) == (0, 800)


# --- The manifest


def write_pool(folder: Path, lines: list[dict]) -> Path:
    for number in range(len(lines)):
        soundfile.write(folder / f"{number}.wav", np.concatenate([np.zeros(RATE // 2), tone(300, 1.5)]), RATE)
    path = folder / "pool.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_both_kinds_of_manifest_lines_are_read_and_filtered(tmp_path):
    path = write_pool(
        tmp_path,
        [
            {
                "audio": "0.wav",
                "speaker": "a",
                "speech_start": 0.5,
                "speech_end": 1.5,
                "split": "train",
                "source": "x",
            },
            {
                "audio_filepath": "1.wav",
                "speaker": "b",
                "offset": 0.5,
                "duration": 1.5,
                "split": "train",
                "source": "y",
            },
            {"audio_filepath": "2.wav", "speaker": "c", "split": "dev", "source": "x", "duration": 2.0},
        ],
    )
    everything = pool_from_manifest(path)
    assert {s.name: s.utterances[0].count for s in everything.speakers} == {"a": RATE, "b": 1.5 * RATE, "c": 2 * RATE}
    assert [s.name for s in pool_from_manifest(path, split="train").speakers] == ["a", "b"]
    assert [s.name for s in pool_from_manifest(path, split="train", exclude_sources=["x"]).speakers] == ["b"]
    with pytest.raises(PoolError, match="`split` 'test'"):
        pool_from_manifest(path, split="test")


def test_a_line_without_a_speaker_is_an_error(tmp_path):
    path = write_pool(tmp_path, [{"audio_filepath": "0.wav"}])
    with pytest.raises(PoolError, match="no `speaker`"):
        pool_from_manifest(path)


def test_a_config_without_voices_says_which_keys_give_some():
    with pytest.raises(PoolError, match="`manifest`, or `synthetic_speakers`"):
        build_pool(MixingConfig())
