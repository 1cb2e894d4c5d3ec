# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Manifests: what each key means, and what is wrong with a line."""

import json

import pytest

from nemo_sortformer.data.manifest import ManifestError, iter_manifest, read_manifest


def write(folder, *lines):
    folder.mkdir(exist_ok=True)
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


def test_all_keys_are_read_and_paths_are_meant_from_the_manifest(tmp_path, monkeypatch):
    line = {
        "audio_filepath": "wav/a.b.wav",
        "offset": 1,
        "duration": 2.5,
        "rttm_filepath": "/abs/a.rttm",
        "uem_filepath": None,
        "seglst_filepath": "",
        "uniq_id": 12,
        "num_speakers": 2.0,
        "text": "-",
        "label": "infer",
        "speech_start": 0.25,
    }
    write(tmp_path, "", line, "   ")
    monkeypatch.chdir(tmp_path)
    (entry,) = read_manifest("manifest.jsonl")
    assert entry.audio_filepath == tmp_path / "wav/a.b.wav"
    assert str(entry.rttm_filepath) == "/abs/a.rttm"
    assert entry.uem_filepath is None
    assert entry.seglst_filepath is None
    assert (entry.offset, entry.duration, entry.num_speakers, entry.uniq_id, entry.text) == (1.0, 2.5, 2, "12", "-")
    assert entry.extra == {"label": "infer", "speech_start": 0.25}
    assert entry.recording_names == ("12", "a.b", "a")
    assert entry.source == f"{tmp_path / 'manifest.jsonl'}:2"


@pytest.mark.parametrize(
    "audio, rttm", [("audio", "rttm"), ("audio_file", "rttm_file"), ("audio_filename", "rttm_filename")]
)
def test_other_names_of_the_keys_are_known(tmp_path, audio, rttm):
    (entry,) = read_manifest(write(tmp_path, {audio: "a.wav", rttm: "a.rttm", "speaker": "ann"}))
    assert (entry.audio_filepath, entry.rttm_filepath) == (tmp_path / "a.wav", tmp_path / "a.rttm")
    assert (entry.offset, entry.duration, entry.uniq_id, entry.speaker) == (0.0, None, "a", "ann")


@pytest.mark.parametrize(
    "line, words",
    [
        ({"duration": 1.0}, "`audio_filepath` is missing; the keys are `duration`"),
        ({"audio_filepath": ["a.wav", "b.wav"]}, "`audio_filepath` must be a path"),
        ({"audio_filepath": "a.wav", "duration": "12"}, "`duration` must be a number of seconds, but is '12'"),
        ({"audio_filepath": "a.wav", "duration": 0}, "`duration` must be more than 0"),
        ('{"audio_filepath": "a.wav", "duration": NaN}', "`duration` must be more than 0"),
        ({"audio_filepath": "a.wav", "offset": -0.5}, "`offset` must be 0 or more seconds, but is -0.5"),
        ({"audio_filepath": "a.wav", "offset": True}, "`offset` must be a number"),
        ({"audio_filepath": "a.wav", "num_speakers": "two"}, "`num_speakers` must be a whole number"),
        ({"audio_filepath": "a.wav", "uniq_id": 1.5}, "`uniq_id` must be a text"),
        ({"audio_filepath": "a.wav", "audio": "b.wav"}, "`audio_filepath` and `audio` mean the same, but differ"),
        ('{"audio_filepath": "a.wav",}', "is not JSON: .* column"),
        ("[1, 2]", "must be a JSON object, but is a list"),
    ],
)
def test_a_bad_line_is_an_error_with_file_and_line(tmp_path, line, words):
    path = write(tmp_path, {"audio_filepath": "ok.wav"}, line)
    with pytest.raises(ManifestError, match=words) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(f"{path}:2: ")


def test_one_bad_line_does_not_hide_the_next(tmp_path):
    path = write(tmp_path, "{", {"audio_filepath": "a.wav"}, {"offset": 1})
    kinds = [type(item).__name__ for item in iter_manifest(path)]
    assert kinds == ["ManifestError", "ManifestEntry", "ManifestError"]


def test_a_manifest_without_entries_is_an_error(tmp_path):
    with pytest.raises(ManifestError, match="has no entries"):
        read_manifest(write(tmp_path, ""))
    with pytest.raises(ManifestError, match="no such file"):
        read_manifest(tmp_path / "missing.jsonl")
    with pytest.raises(ManifestError, match="one JSON object per line"):
        read_manifest(write(tmp_path, '[{"audio_filepath": "a.wav"}]'))


def ids(tmp_path, *lines):
    return [entry.uniq_id for entry in read_manifest(write(tmp_path, *lines))]


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path):
    lines = [{"audio_filepath": name} for name in ("x/day1/a.wav", "y/day1/a.wav", "x/day2/a.wav", "b.wav")]
    assert ids(tmp_path, *lines) == ["x_day1_a", "y_day1_a", "day2_a", "b"]
    assert ids(tmp_path, {"audio_filepath": "a.wav"}, {"audio_filepath": "a.flac"}) == ["a_wav", "a_flac"]


def test_stretches_of_one_file_are_told_apart_by_their_times(tmp_path):
    stretch = {"audio_filepath": "a.wav", "uniq_id": "meeting", "duration": 10}
    assert ids(tmp_path, stretch, {**stretch, "offset": 10.5}) == ["meeting-0-10000", "meeting-10500-20500"]


def test_a_file_given_twice_is_kept_twice_under_two_names(tmp_path):
    assert ids(tmp_path, {"audio_filepath": "a.wav"}, {"audio_filepath": "a.wav"}) == ["a", "a-2"]
    entries = read_manifest(tmp_path / "manifest.jsonl")
    assert [entry.recording_names for entry in entries] == [("a",), ("a",)]


def test_the_shared_manifests_are_read(speech_data):
    pool = read_manifest(speech_data / "pool" / "manifest.jsonl")
    assert len({entry.uniq_id for entry in pool}) == len(pool) > 2000
    assert all(entry.speaker and "speech_start" in entry.extra for entry in pool)
    assert all(entry.rttm_filepath.exists() for entry in read_manifest(speech_data / "sessions/dev/manifest.jsonl"))
