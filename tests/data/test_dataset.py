# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The data set of manifests: windows, repeatability, and what a bad file among good ones does."""

import json

import numpy as np
import pytest
import soundfile
import torch

from nemo_sortformer.data.audio import AudioError, read_audio
from nemo_sortformer.data.dataset import DiarizationDataset
from nemo_sortformer.data.failures import FailedRecordingWarning, TooManyFailuresError
from nemo_sortformer.data.manifest import ManifestError, read_manifest
from nemo_sortformer.data.rttm import RttmError, RttmWarning, write_rttm
from nemo_sortformer.data.segment import Segment
from nemo_sortformer.data.targets import TooManySpeakersError, frame_targets

SEGMENTS = [Segment(0.5, 2.0, "ann"), Segment(1.5, 4.0, "bob"), Segment(5.0, 9.0, "ann"), Segment(8.0, 9.5, "eve")]


def make(folder, *, names=("a",), seconds=10.0, segments=SEGMENTS, **keys):
    folder.mkdir(exist_ok=True)
    for seed, name in enumerate(names):
        samples = np.random.default_rng(seed).uniform(-0.5, 0.5, round(16000 * seconds))
        soundfile.write(folder / f"{name}.wav", samples, 16000)
        write_rttm(folder / f"{name}.rttm", segments, name)
    lines = [{"audio_filepath": f"{name}.wav", "rttm_filepath": f"{name}.rttm", **keys} for name in names]
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_an_item_is_the_audio_and_its_targets(tmp_path):
    (item,) = DiarizationDataset(make(tmp_path), num_slots=4)
    assert torch.equal(item.audio, torch.from_numpy(read_audio(tmp_path / "a.wav")))
    np.testing.assert_array_equal(item.targets.numpy(), frame_targets(SEGMENTS, num_samples=160_000, num_slots=4))
    assert (item.recording, item.offset) == ("a", 0.0)


def test_offset_and_duration_take_a_stretch_with_its_labels(tmp_path):
    (item,) = DiarizationDataset(make(tmp_path, offset=4.5, duration=4.0), num_slots=4)
    assert torch.equal(item.audio, torch.from_numpy(read_audio(tmp_path / "a.wav"))[72_000:136_000])
    expected = [Segment(0.5, 4.0, "ann"), Segment(3.5, 4.0, "eve")]
    np.testing.assert_array_equal(item.targets.numpy(), frame_targets(expected, num_samples=64_000, num_slots=4))


@pytest.mark.parametrize("keys", [{}, {"duration": 10.0}])
def test_validation_windows_cover_everything_once(tmp_path, keys):
    dataset = DiarizationDataset(make(tmp_path, **keys), num_slots=4, session_len_sec=3.0)
    assert [round(window[1]) for window in dataset.windows] == [0, 3, 6]
    assert torch.equal(torch.cat([item.audio for item in dataset]), torch.from_numpy(read_audio(tmp_path / "a.wav")))
    assert [len(item.audio) / 16000 for item in dataset] == [3.0, 3.0, 4.0]  # the last second is no window of its own


@pytest.mark.parametrize("limit", [None, -1, 10.0, 60.0])
def test_short_recordings_are_one_item(tmp_path, limit):
    for training in (False, True):
        dataset = DiarizationDataset(make(tmp_path), num_slots=4, session_len_sec=limit, training=training)
        assert [len(item.audio) for item in dataset] == [160_000]


def test_training_windows_are_a_function_of_seed_epoch_and_index(tmp_path):
    def offsets(seed, epoch):
        dataset = DiarizationDataset(make(tmp_path), num_slots=4, session_len_sec=2.0, training=True, seed=seed)
        dataset.set_epoch(epoch)
        items = [dataset[index] for index in range(len(dataset))]
        for item in items:
            start = round(item.offset * 16000)
            assert torch.equal(item.audio, torch.from_numpy(read_audio(tmp_path / "a.wav"))[start : start + 32000])
            expected = frame_targets(SEGMENTS, num_samples=32000, num_slots=4, offset=item.offset)
            np.testing.assert_array_equal(item.targets.numpy(), expected)
        return [item.offset for item in items]

    first = offsets(0, 0)
    assert len(set(first)) == len(first) == 5  # as many windows as fit
    assert offsets(0, 0) == first
    assert offsets(0, 1) != first
    assert offsets(1, 0) != first


def test_a_window_with_too_many_speakers_is_drawn_anew(tmp_path):
    """Three speak at once in one tenth of the recording only: two slots are enough for most windows."""
    crowd = [Segment(0.0, 10.0, "ann"), Segment(5.0, 5.5, "bob"), Segment(5.2, 5.6, "eve")]
    path = make(tmp_path, segments=crowd)
    dataset = DiarizationDataset(path, num_slots=2, session_len_sec=1.0, training=True)
    for epoch in range(20):
        dataset.set_epoch(epoch)
        assert all(item.targets.shape[1] == 2 for item in dataset)
    with pytest.raises(TooManySpeakersError, match="a.wav: 3 speakers"):
        DiarizationDataset(path, num_slots=2)[0]
    kept = DiarizationDataset(path, num_slots=2, keep_earliest_speakers=True)[0]
    np.testing.assert_array_equal(kept.targets.numpy(), frame_targets(crowd[:2], num_samples=160_000, num_slots=2))


def test_a_new_epoch_reaches_workers_that_live_on(tmp_path):
    def dataset():
        return DiarizationDataset(make(tmp_path), num_slots=4, session_len_sec=2.0, training=True)

    shared, alone = dataset(), dataset()
    loader = torch.utils.data.DataLoader(shared, batch_size=None, num_workers=1, persistent_workers=True)
    for epoch in (0, 7):
        shared.set_epoch(epoch)
        alone.set_epoch(epoch)
        assert [item.offset for item in loader] == [alone[index].offset for index in range(len(alone))]


def ten_with_one_bad(tmp_path):
    path = make(tmp_path, names=[f"r{number}" for number in range(10)], seconds=1.0, segments=SEGMENTS[:1])
    (tmp_path / "r4.wav").write_bytes(b"")
    return path


def test_a_bad_file_ends_the_run_where_none_may_fail(tmp_path):
    dataset = DiarizationDataset(ten_with_one_bad(tmp_path), num_slots=4)
    with pytest.raises(AudioError, match=r"r4.wav: the file is empty"):
        list(dataset)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_file_costs_only_itself_where_some_may_fail(tmp_path, workers):
    dataset = DiarizationDataset(ten_with_one_bad(tmp_path), num_slots=4, max_failed_share=0.1)
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=workers)
    if workers:
        names = [item.recording for item in loader]
    else:
        with pytest.warns(FailedRecordingWarning, match=r"r4.wav. is left out"):
            names = [item.recording for item in loader]
    assert names == ["r0", "r1", "r2", "r3", "r5", "r5", "r6", "r7", "r8", "r9"]  # the next good one stands in
    assert dataset.failures.failed == [str(tmp_path / "r4.wav")]  # known here, although a worker found it


@pytest.mark.filterwarnings("ignore::nemo_sortformer.data.failures.FailedRecordingWarning")
def test_too_many_bad_files_end_the_run_and_are_named(tmp_path):
    path = ten_with_one_bad(tmp_path)
    (tmp_path / "r7.rttm").write_text("SPEAKER r7 1 -1 2 <NA> <NA> ann <NA> <NA>\n")
    with pytest.raises(TooManyFailuresError, match=r"2 of 10 .*r4.wav.*r7.wav"):
        list(DiarizationDataset(path, num_slots=4, max_failed_share=0.1))
    for name in range(10):
        (tmp_path / f"r{name}.wav").unlink(missing_ok=True)
    with pytest.raises(TooManyFailuresError, match="Not one of the recordings"):
        DiarizationDataset(path, num_slots=4, max_failed_share=1.0)[3]


def test_faults_of_the_program_are_never_survived(tmp_path, monkeypatch):
    monkeypatch.setattr("nemo_sortformer.data.dataset.named_targets", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        DiarizationDataset(make(tmp_path), num_slots=4, max_failed_share=1.0)[0]


def test_entries_without_labels_are_found_at_once(tmp_path):
    path = make(tmp_path)
    path.write_text(path.read_text() + '{"audio_filepath": "a.wav"}\n')
    with pytest.raises(ManifestError, match=r"manifest.jsonl:2: has neither `rttm_filepath` nor"):
        DiarizationDataset(path, num_slots=4)


def test_seglst_labels_are_taken_too(tmp_path):
    path = make(tmp_path)
    records = [{"session_id": "a", "speaker": s.speaker, "start_time": s.start, "end_time": s.end} for s in SEGMENTS]
    (tmp_path / "a.json").write_text(json.dumps(records))
    expected = DiarizationDataset(path, num_slots=4)[0].targets
    path.write_text('{"audio_filepath": "a.wav", "seglst_filepath": "a.json"}')
    assert torch.equal(DiarizationDataset(path, num_slots=4)[0].targets, expected)


def test_one_rttm_for_all_recordings_and_one_of_another_name(tmp_path):
    make(tmp_path, names=["a", "b"], rttm_filepath="all.rttm")
    both = (tmp_path / "a.rttm").read_text() + (tmp_path / "b.rttm").read_text().replace("ann", "kim")
    (tmp_path / "all.rttm").write_text(both)
    assert len(DiarizationDataset(tmp_path / "manifest.jsonl", num_slots=4)) == 2
    (tmp_path / "all.rttm").write_text(both.replace(" b ", " c "))
    with pytest.raises(RttmError, match="none is called `b`"):
        list(DiarizationDataset(tmp_path / "manifest.jsonl", num_slots=4))
    (tmp_path / "all.rttm").write_text((tmp_path / "a.rttm").read_text())
    with pytest.warns(RttmWarning, match="not `b`"):
        list(DiarizationDataset(tmp_path / "manifest.jsonl", num_slots=4))


def test_several_manifests_in_one_string_in_a_list_or_as_entries(tmp_path):
    first, second = make(tmp_path / "x"), make(tmp_path / "y", names=["b", "c"])
    for manifest in (f"{first},{second}", [first, str(second)], [*read_manifest(first), *read_manifest(second)]):
        assert [item.recording for item in DiarizationDataset(manifest, num_slots=4)] == ["a", "b", "c"]
    with pytest.raises(ManifestError, match="names none"):
        DiarizationDataset([], num_slots=4)


@pytest.mark.parametrize("rate, channels", [(8000, 1), (44100, 2), (48000, 2)])
def test_other_rates_and_channels_give_the_same_targets(tmp_path, rate, channels):
    path = make(tmp_path)
    expected = DiarizationDataset(path, num_slots=4)[0]
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).uniform(-0.5, 0.5, (rate * 10, channels)), rate)
    item = DiarizationDataset(path, num_slots=4)[0]
    assert item.audio.shape == expected.audio.shape
    assert torch.equal(item.targets, expected.targets)


def test_a_twentieth_of_a_second_is_one_frame(tmp_path):
    (item,) = DiarizationDataset(make(tmp_path, seconds=0.05, segments=[Segment(0, 0.05, "ann")]), num_slots=4)
    assert (item.audio.shape, item.targets.tolist()) == ((800,), [[1, 0, 0, 0]])
