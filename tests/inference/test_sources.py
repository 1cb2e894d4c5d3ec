# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What may be given to be diarized, and what each recording is called."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nemo_sortformer.data.audio import AudioError
from nemo_sortformer.inference.sources import AudioSource, collect_sources, mono_samples, name_apart


def names(*paths):
    return [s.name for s in name_apart([AudioSource(name=Path(p).stem, path=Path(p)) for p in paths])]


def test_files_folders_and_manifests_can_be_mixed(wav, tmp_path):
    one = wav("one.wav")
    wav("many/b.wav"), wav("many/a.flac"), (tmp_path / "many" / "notes.txt").write_text("x")
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text(json.dumps({"audio_filepath": "one.wav", "offset": 1.0, "duration": 1.5, "uniq_id": "part"}))
    sources = collect_sources([one, str(tmp_path / "many"), manifest])
    assert [s.name for s in sources] == ["one", "a", "b", "part"]
    assert (sources[3].offset, sources[3].duration) == (1.0, 1.5)
    assert len(sources[3].read(16000)) == 24000
    assert sources[3].seconds() == 1.5


def test_a_missing_file_is_listed_and_fails_when_it_is_read():
    (source,) = collect_sources("no/such.wav")
    with pytest.raises(AudioError, match="no such file"):
        source.seconds()
    with pytest.raises(AudioError, match="no such file"):
        source.read(16000)


def test_samples_need_a_rate_and_are_resampled():
    audio = np.sin(np.arange(8000) / 20).astype(np.float32)
    with pytest.raises(ValueError, match="sample_rate"):
        collect_sources(audio)
    first, second = collect_sources([audio, torch.from_numpy(audio)], sample_rate=8000)
    assert [first.name, second.name] == ["array_0", "array_1"]
    assert first.seconds() == 1.0
    assert len(first.read(16000)) == 16000
    np.testing.assert_array_equal(first.read(8000), audio)


def test_integers_are_scaled_and_channels_averaged():
    np.testing.assert_allclose(mono_samples(np.array([0, 16384, -32768], np.int16)), [0, 0.5, -1])
    left, right = np.ones(10), np.zeros(10)
    for stereo in (np.stack([left, right]), np.stack([left, right], axis=1)):
        np.testing.assert_allclose(mono_samples(stereo), np.full(10, 0.5))


@pytest.mark.parametrize(
    "samples, message",
    [
        (np.array([0.0, np.nan]), "NaN"),
        (np.zeros((2, 3, 4)), "shape"),
        (np.array(["a"]), "floats or integers"),
    ],
)
def test_bad_samples(samples, message):
    with pytest.raises(AudioError, match=message):
        mono_samples(samples)


def test_no_samples_at_all():
    (source,) = collect_sources(np.zeros(0, np.float32), sample_rate=16000)
    assert source.seconds() == 0.0
    with pytest.raises(AudioError, match="no samples"):
        source.read(16000)


def test_an_object_of_no_use_is_named():
    loader = torch.utils.data.DataLoader([1, 2])
    with pytest.raises(ValueError, match="DataLoader.*paths or the samples"):
        collect_sources(loader)
    with pytest.raises(ValueError, match="int"):
        collect_sources([3])
    assert collect_sources([]) == []


def test_a_folder_without_audio_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no audio files"):
        collect_sources(tmp_path)


def test_equal_names_are_told_apart_by_folder_suffix_and_number():
    assert names("/x/mon/talk.wav", "/x/fri/talk.wav", "/x/fri/other.wav") == ["mon_talk", "fri_talk", "other"]
    assert names("/a/day/talk.wav", "/b/day/talk.wav") == ["a_day_talk", "b_day_talk"]
    assert names("/a/talk.wav", "/a/talk.flac") == ["talk_wav", "talk_flac"]
    assert names("/a/talk.wav", "/a/talk.wav") == ["talk", "talk-2"]
    assert names("/a/t.wav", "/b/t.wav", "/b/t.wav") == ["a_t", "b_t", "b_t-2"]


def test_stretches_of_one_file_are_told_apart_by_their_times():
    parts = [AudioSource(name="t", path=Path("/a/t.wav"), offset=o, duration=d) for o, d in ((0, 1.5), (1.5, None))]
    assert [s.name for s in name_apart(parts)] == ["t-0-1500", "t-1500-end"]


def test_a_made_up_name_never_meets_a_given_one():
    found = names("/a/t.wav", "/b/t.wav", "/c/a_t.wav", "/d/a_t-2.wav")
    assert len(set(found)) == 4
    assert found[3] == "a_t-2"
