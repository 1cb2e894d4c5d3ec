# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Targets beside those of NeMo's two loaders: equal frame for frame, but where NeMo's two disagree or are wrong."""

import json

import numpy as np
import pytest
import soundfile
import torch

from nemo_sortformer.data.dataset import DiarizationDataset
from nemo_sortformer.data.rttm import read_rttm, write_rttm
from nemo_sortformer.data.segment import Segment, merge_overlaps
from nemo_sortformer.data.targets import frame_targets
from nemo_sortformer.functional.arrival import sort_by_arrival

pytestmark = pytest.mark.slow


def conversation(seed, seconds, speakers=4):
    rng = np.random.default_rng(seed)
    time, segments = 0.0, []
    while time < seconds:
        length = rng.uniform(0.1, 4.0)
        segments.append(Segment(round(time, 3), round(time + length, 3), f"s{rng.integers(speakers)}"))
        time += length * rng.uniform(0.5, 1.4)
    return merge_overlaps(segments)


def arranged(targets):
    return sort_by_arrival(torch.as_tensor(targets)[None].float())[0].numpy()


def nemo_native(manifest, *, num_spks=4, soft=False):
    from nemo.collections.asr.data.audio_to_diar_label import AudioToSpeechE2ESpkDiarDataset
    from nemo.collections.asr.parts.preprocessing.features import FilterbankFeatures, WaveformFeaturizer

    return AudioToSpeechE2ESpkDiarDataset(
        manifest_filepath=str(manifest),
        soft_label_thres=0.5,
        session_len_sec=-1,
        num_spks=num_spks,
        featurizer=WaveformFeaturizer(sample_rate=16000),
        fb_featurizer=FilterbankFeatures(n_window_size=400, n_window_stride=160),
        window_stride=0.01,
        global_rank=0,
        soft_targets=soft,
        device="cpu",
    )


def write_manifest(folder, seconds, segments, *, offset=0.0, duration=None):
    soundfile.write(folder / "a.wav", np.random.default_rng(0).uniform(-0.5, 0.5, round(seconds * 16000)), 16000)
    write_rttm(folder / "a.rttm", segments, "a")
    line = {"audio_filepath": str(folder / "a.wav"), "rttm_filepath": str(folder / "a.rttm"), "offset": offset}
    path = folder / "manifest.json"
    path.write_text(json.dumps({**line, "duration": duration or seconds, "num_speakers": 4}) + "\n")
    return path


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(
    "seed, seconds, offset, duration", [(0, 20.0, 0.0, None), (1, 27.0, 0.0, None), (2, 30.5, 0.0, None)]
)
def test_targets_are_those_of_the_native_data_set(tmp_path, soft, seed, seconds, offset, duration):
    path = write_manifest(tmp_path, seconds, conversation(seed, seconds), offset=offset, duration=duration)
    audio, _, expected, length = nemo_native(path, soft=soft)[0]
    item = DiarizationDataset(path, num_slots=4, threshold=None if soft else 0.5)[0]
    assert len(item.audio) == len(audio)
    assert item.targets.shape == (int(length), 4) == tuple(expected.shape)
    np.testing.assert_allclose(arranged(item.targets), arranged(expected), atol=1e-6)


def test_targets_of_a_stretch_are_those_of_the_native_data_set_within_one_hop(tmp_path):
    """NeMo leaves float noise in `start - offset`, so that a boundary on a hop may fall one hop later than ours."""
    path = write_manifest(tmp_path, 40.0, conversation(3, 40.0), offset=7.36, duration=24.0)
    _, _, expected, _ = nemo_native(path, soft=True)[0]
    item = DiarizationDataset(path, num_slots=4, threshold=None)[0]
    assert item.targets.shape == tuple(expected.shape)
    assert np.abs(arranged(item.targets) - arranged(expected)).max() <= 1 / 9 + 1e-6


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("start, seconds", [(0.0, None), (7.36, 20.13), (3.333, 4.0), (29.0, 1.0)])
def test_targets_are_those_of_the_lhotse_data_set(tmp_path, seed, start, seconds):
    from lhotse import MonoCut, Recording
    from nemo.collections.asr.parts.utils.asr_multispeaker_utils import speaker_to_target

    write_manifest(tmp_path, 30.0, conversation(seed, 30.0))
    recording = Recording.from_file(tmp_path / "a.wav")
    cut = MonoCut("a", start, seconds or recording.duration, 0, recording=recording)
    cut.custom = {"rttm_filepath": str(tmp_path / "a.rttm")}
    segments = read_rttm(tmp_path / "a.rttm")["a"]
    for soft in (True, False):
        expected = speaker_to_target(cut, num_speakers=4, boundary_segments=True, soft_label=soft).numpy()
        ours = frame_targets(
            segments, num_samples=cut.num_samples, num_slots=4, offset=start, threshold=None if soft else 0.5
        )
        assert ours.shape == expected.shape
        if soft:
            shares = expected
            # By the time at which a speaker starts, where ours is the first label: columns may differ in their order.
            order = [int(np.abs(ours - column[:, None]).sum(axis=0).argmin()) for column in expected.T]
            np.testing.assert_allclose(ours[:, order], expected, atol=1e-6)
        else:
            differs = arranged(ours) != arranged(expected)
            # Exactly half a window: one (as NeMo's native loader) here, none in NeMo's lhotse loader.
            assert not differs.any() or np.isclose(shares, 0.5).any()


def test_where_exactly_half_a_window_is_speech_nemo_s_two_loaders_disagree(tmp_path):
    """The first window has four hops. Ours follows the native loader (half is enough), as published models did."""
    from lhotse import MonoCut, Recording
    from nemo.collections.asr.parts.utils.asr_multispeaker_utils import speaker_to_target

    path = write_manifest(tmp_path, 20.0, [Segment(0.02, 0.04, "ann"), Segment(5.0, 9.0, "ann")])
    native = nemo_native(path)[0][2].numpy()
    recording = Recording.from_file(tmp_path / "a.wav")
    cut = MonoCut("a", 0.0, 20.0, 0, recording=recording, custom={"rttm_filepath": str(tmp_path / "a.rttm")})
    lhotse = speaker_to_target(cut, num_speakers=4, boundary_segments=True).numpy()
    ours = DiarizationDataset(path, num_slots=4)[0].targets.numpy()
    assert (native[0, 0], lhotse[0, 0], ours[0, 0]) == (1, 0, 1)


def test_of_five_speakers_the_earliest_stay_whatever_the_order_of_the_file(tmp_path):
    """NeMo's native loader keeps those whose lines come first."""
    late_first = [Segment(20.0 - 4 * k, 24.0 - 4 * k, f"s{k}") for k in range(5)]
    path = write_manifest(tmp_path, 26.0, [])
    line = "SPEAKER a 1 {:.3f} {:.3f} <NA> <NA> {} <NA> <NA>\n"
    (tmp_path / "a.rttm").write_text("".join(line.format(s.start, s.duration, s.speaker) for s in late_first))
    ours = DiarizationDataset(path, num_slots=4, keep_earliest_speakers=True)[0].targets.numpy()
    starts = ours.argmax(axis=0) * 0.08
    np.testing.assert_allclose(starts, [4, 8, 12, 16], atol=0.09)
    native = nemo_native(path)[0][2].numpy()
    np.testing.assert_allclose(sorted(native.argmax(axis=0) * 0.08), [8, 12, 16, 20], atol=0.09)


@pytest.mark.parametrize("text", ["\n", ";; comment\n", "SPKR-INFO a 1 <NA> <NA> <NA> unknown s0 <NA>\n"])
def test_lines_that_stop_nemo_are_read(tmp_path, text):
    path = write_manifest(tmp_path, 20.0, conversation(0, 20.0))
    expected = DiarizationDataset(path, num_slots=4)[0].targets
    (tmp_path / "a.rttm").write_text(text + (tmp_path / "a.rttm").read_text())
    assert torch.equal(DiarizationDataset(path, num_slots=4)[0].targets, expected)
    with pytest.raises((ValueError, IndexError)):
        nemo_native(path)[0]


def test_real_labels_are_those_of_nemo(speech_data):
    from lhotse import MonoCut, Recording
    from nemo.collections.asr.parts.utils.asr_multispeaker_utils import speaker_to_target

    files = sorted((speech_data / "sessions" / "dev").glob("*.rttm"))
    assert files
    for rttm in files:
        recording = Recording.from_file(rttm.with_suffix(".flac"))
        cut = MonoCut("a", 0.0, recording.duration, 0, recording=recording, custom={"rttm_filepath": str(rttm)})
        expected = speaker_to_target(cut, num_speakers=4, boundary_segments=True).numpy()
        ours = frame_targets(read_rttm(rttm)[rttm.stem], num_samples=recording.num_samples, num_slots=4)
        np.testing.assert_array_equal(ours, arranged(expected))
