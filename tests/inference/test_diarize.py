# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The engine: every kind of input, one result per recording in the order given, failures that cost only themselves."""

import json

import numpy as np
import pytest
import torch

from nemo_sortformer.config.inference import InferenceConfig
from nemo_sortformer.config.merge import ConfigError
from nemo_sortformer.inference import windows
from nemo_sortformer.inference.diarize import DiarizationError, diarize_files, diarize_recordings, diarize_to_strings


def test_results_come_in_the_order_given_whatever_the_batches(tiny_model, wav):
    paths = [wav(f"{name}.wav", seconds, seed=seed) for seed, (name, seconds) in enumerate(zip("cabd", (2, 6, 1, 4)))]
    one_by_one = diarize_recordings(tiny_model, paths)
    assert [r.recording for r in one_by_one] == ["c", "a", "b", "d"]
    assert [r.duration for r in one_by_one] == [2, 6, 1, 4]
    assert any(len(r.segments) > 3 for r in one_by_one)
    for options in ({"batch_size": 3}, {"batch_size": 4, "num_workers": 2}, {"num_workers": 3}):
        again = diarize_recordings(tiny_model, paths, **options)
        for a, b in zip(one_by_one, again, strict=True):
            np.testing.assert_allclose(a.probs, b.probs, atol=5e-5)
            assert a.segments == b.segments


def test_a_bad_file_costs_only_itself(tiny_model, wav, tmp_path):
    good = [wav("a.wav"), wav("b.wav", seed=1)]
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("no audio at all")
    cut = wav("cut.wav")
    cut.write_bytes(cut.read_bytes()[:4000])
    bad = [tmp_path / "missing.wav", tmp_path / "empty.wav", tmp_path / "text.wav", cut]
    failures = []
    results = diarize_recordings(tiny_model, [good[0], *bad, good[1]], failures=failures, batch_size=3)
    assert [r.recording for r in results] == ["a", "b"]
    assert [f.recording for f in failures] == ["missing", "empty", "text", "cut"]
    assert all(f.recording in f.message for f in failures)
    with pytest.raises(DiarizationError, match="1 of 2 recordings.*\n.*missing") as caught:
        diarize_recordings(tiny_model, [good[0], bad[0]])
    assert [r.recording for r in caught.value.results] == ["a"]


def test_a_recording_that_breaks_the_model_costs_only_itself(tiny_model, wav, monkeypatch):
    paths = [wav("a.wav", 1.0), wav("b.wav", 1.5, seed=1), wav("c.wav", 2.0, seed=2)]
    mel_features = type(tiny_model).mel_features

    def fragile(self, audio_signal, audio_signal_length):
        if 24000 in audio_signal_length.tolist():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return mel_features(self, audio_signal, audio_signal_length)

    monkeypatch.setattr(type(tiny_model), "mel_features", fragile)
    failures = []
    results = diarize_recordings(tiny_model, paths, batch_size=3, failures=failures)
    assert [r.recording for r in results] == ["a", "c"]
    assert failures[0].recording == "b"
    assert "memory ran out" in failures[0].message


@pytest.mark.parametrize("seconds", [0.05, 0.0001, 0.3])
def test_very_short_recordings_are_valid(tiny_model, wav, seconds):
    path = wav("short.wav", max(seconds, 1 / 16000))
    (result,) = diarize_recordings(tiny_model, path)
    assert len(result.probs) == -(-result.duration // 0.08)
    assert all(s.end <= result.duration + 1e-3 for s in result.segments)


@pytest.mark.parametrize("rate, channels", [(8000, 1), (44100, 2), (48000, 1)])
def test_any_rate_and_number_of_channels(tiny_model, wav, rate, channels):
    (result,) = diarize_recordings(tiny_model, wav("x.wav", 2.0, rate=rate, channels=channels))
    assert result.duration == pytest.approx(2.0, abs=1e-3)


def test_equal_names_keep_separate_results(tiny_model, wav):
    paths = [wav("mon/talk.wav", 2.0, seed=1), wav("fri/talk.wav", 3.0, seed=2)]
    results = diarize_recordings(tiny_model, paths)
    assert [(r.recording, r.duration) for r in results] == [("mon_talk", 2.0), ("fri_talk", 3.0)]


def test_a_stretch_of_a_file_has_the_times_of_the_file(tiny_model, wav, tmp_path):
    wav("long.wav", 8.0)
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(json.dumps({"audio_filepath": "long.wav", "offset": 4.0, "duration": 2.0}))
    (part,) = diarize_recordings(tiny_model, manifest)
    assert (part.offset, part.duration) == (4.0, 2.0)
    assert part.segments
    assert all(4.0 <= s.start < s.end <= 6.0 for s in part.segments)


def test_speakers_are_numbered_by_arrival_and_columns_follow(tiny_model, make_audio):
    (result,) = diarize_recordings(tiny_model, make_audio(8.0, 3), sample_rate=16000)
    assert list(result.speakers) == [f"speaker_{k}" for k in range(len(result.speakers))]
    raw = windows.batch_outputs(tiny_model, [make_audio(8.0, 3)])[0].probs
    np.testing.assert_array_equal(result.probs, raw[:, list(result.slots)])
    assert sorted(result.slots) == [0, 1, 2, 3]


def test_the_number_of_speakers_can_be_given(tiny_model, make_audio):
    for limits in ({"num_speakers": 2}, {"max_speakers": 2}):
        (result,) = diarize_recordings(tiny_model, make_audio(8.0), sample_rate=16000, **limits)
        assert len(result.speakers) == 2


def test_nemos_return(tiny_model, make_audio, wav):
    audio = [make_audio(3.0, 1), make_audio(5.0, 2)]
    lines, tensors = tiny_model.diarize(
        audio, sample_rate=16000, batch_size=2, include_tensor_outputs=True, verbose=False
    )
    assert [t.shape for t in tensors] == [(1, 38, 4), (1, 63, 4)], "each is as long as its own recording"
    for samples, probs, said in zip(audio, tensors, lines, strict=True):
        raw = windows.batch_outputs(tiny_model, [samples])[0].probs
        np.testing.assert_allclose(probs[0].numpy(), raw, atol=5e-5)
        for line in said:
            start, end, name = line.split()
            first, last = round(float(start) / 0.08), round(float(end) / 0.08)
            assert (raw[first:last, int(name[-1])] > 0.5 - 1e-4).all(), "the name is the column of the tensor"
    assert diarize_to_strings(tiny_model, wav("x.wav"), verbose=False)[0][0].count(" ") == 2


def test_nemos_post_processing_gives_the_same_lines(tiny_model, make_audio, tmp_path):
    from nemo.collections.asr.parts.utils.vad_utils import load_postprocessing_from_yaml, ts_vad_post_processing

    path = tmp_path / "post.yaml"
    path.write_text(
        "parameters: {onset: 0.6, offset: 0.45, pad_onset: 0.05, pad_offset: 0.1, min_duration_on: 0.3, "
        "min_duration_off: 0.2}"
    )
    audio = make_audio(20.0, 5)
    (lines,), (probs,) = tiny_model.diarize(
        audio, sample_rate=16000, include_tensor_outputs=True, postprocessing_yaml=path, verbose=False
    )
    parameters = load_postprocessing_from_yaml(str(path))
    expected = []
    for k in range(4):
        for start, end in ts_vad_post_processing(probs[0, :, k], parameters, unit_10ms_frame_count=8).tolist():
            expected.append((round(start, 2), round(end, 2), f"speaker_{k}"))
    found = [(float(a), float(b), name) for a, b, name in map(str.split, lines)]
    assert [(a, name) for a, _, name in found] == [(a, name) for a, _, name in expected]
    for (_, end, _), (_, theirs, _) in zip(found, expected, strict=True):
        assert end == pytest.approx(theirs, abs=1e-6) or end <= 20.0 <= theirs + 0.1  # NeMo's last end is 10 ms off


def test_nemos_diarize_config_stands_for_the_arguments(tiny_model, make_audio):
    from nemo.collections.asr.parts.mixins.diarization import DiarizeConfig
    from nemo.collections.asr.parts.utils.vad_utils import PostProcessingParams

    silent = PostProcessingParams(onset=1.0, offset=1.0)
    config = DiarizeConfig(include_tensor_outputs=True, verbose=False, batch_size=2, postprocessing_params=silent)
    lines, tensors = tiny_model.diarize(make_audio(2.0), sample_rate=16000, override_config=config)
    assert lines == [[]]
    assert len(tensors) == 1


def test_wrong_settings_stop_the_run_instead_of_failing_each_file(tiny_model, wav):
    path = wav("x.wav")
    for options in (
        {"override_config": {"onsett": 1}},
        {"num_speakers": 9},
        {"batch_size": 0},
        {"window_seconds": 3.0},
        {"max_seconds_one_pass": 10.0},
    ):
        with pytest.raises(ConfigError):
            diarize_recordings(tiny_model, path, **options)


def test_long_recordings_run_in_windows(tiny_model, make_audio, monkeypatch):
    lengths = []
    real = windows.run_features

    def watched(model, mel, hops, most_frames):
        lengths.extend(hops.tolist())
        return real(model, mel, hops, most_frames)

    monkeypatch.setattr(windows, "run_features", watched)
    (result,) = diarize_recordings(
        tiny_model, make_audio(50.0), sample_rate=16000, max_seconds_one_pass=20.0, overlap_seconds=5.0
    )
    assert max(lengths) == 20 * 100
    assert len(result.probs) == 625
    assert result.duration == 50.0


def test_clustering_gets_the_whole_recording_from_windows(tiny_model, make_audio, monkeypatch):
    from nemo_sortformer.inference import clustering

    seen = {}
    real = clustering.cluster_probabilities

    def watched(embeddings, probs, config, *, activity, **limits):
        seen.update(limits, embeddings=embeddings.shape, probs=probs.shape, threshold=config.threshold)
        return real(embeddings, probs, config, activity=activity, **limits)

    monkeypatch.setattr(clustering, "cluster_probabilities", watched)
    (result,) = diarize_recordings(
        tiny_model,
        make_audio(45.0),
        sample_rate=16000,
        override_config={"assignment": "clustering", "clustering": {"threshold": 0.3}},
        max_speakers=6,
    )
    assert seen == {"threshold": 0.3, "max_speakers": 6, "embeddings": (563, 8), "probs": (563, 4)}
    assert len(result.probs) == 563
    assert 1 <= len(result.speakers) <= 6
    assert list(result.speakers) == [f"speaker_{k}" for k in range(len(result.speakers))]


def test_training_goes_on_where_it_was(tiny_model, make_audio):
    tiny_model.train()
    tiny_model.encoder.eval()
    try:
        diarize_recordings(tiny_model, make_audio(1.0), sample_rate=16000)
        assert tiny_model.training
        assert not tiny_model.encoder.training
    finally:
        tiny_model.eval()


def test_diarize_files_loads_a_model_by_name(tiny_model, wav, tmp_path):
    path = tmp_path / "tiny.nemo"
    tiny_model.save_to(str(path))
    recording = wav("x.wav")
    (by_name,) = diarize_files(recording, model=path, device="cpu")
    (by_model,) = diarize_files([recording], model=tiny_model)
    np.testing.assert_allclose(by_name.probs, by_model.probs, atol=1e-5)


def test_no_recordings_give_no_results(tiny_model):
    assert diarize_recordings(tiny_model, []) == []
    assert tiny_model.diarize([], verbose=False) == []


@pytest.mark.slow
def test_an_hour_is_diarized_in_bounded_memory(tiny_model, make_audio):
    audio = np.tile(make_audio(60.0), 60)
    (result,) = diarize_recordings(tiny_model, audio, sample_rate=16000)
    assert result.duration == 3600
    assert len(result.probs) == 45000


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_batches_hold_each_recording_once_with_its_likes_and_long_ones_alone(batch_size):
    from nemo_sortformer.inference.engine import RunOptions, _batches

    options = RunOptions(config=InferenceConfig(assignment="clustering"), batch_size=batch_size)
    lengths = {0: 3.0, 1: 90.0, 2: 19.0, 4: 3.5, 5: 21.0, 6: 18.0}
    batches = _batches(lengths, options)
    assert batches[:2] == [[1], [5]]
    assert [i for batch in batches[2:] for i in batch] == [2, 6, 4, 0]
    assert max(map(len, batches)) == batch_size
