# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Cuts of all kinds, labels from RTTM or supervisions, and unreadable cuts."""

import numpy as np
import pytest
import soundfile
import torch

pytest.importorskip("lhotse")
from lhotse import CutSet, MonoCut, MultiCut, Recording, SupervisionSegment

from nemo_sortformer.data.audio import AudioError, read_audio
from nemo_sortformer.data.failures import FailedRecordingWarning, TooManyFailuresError
from nemo_sortformer.data.lhotse_dataset import LhotseDiarizationDataset, cut_segments
from nemo_sortformer.data.manifest import ManifestError
from nemo_sortformer.data.rttm import write_rttm
from nemo_sortformer.data.segment import Segment
from nemo_sortformer.data.targets import frame_targets

SEGMENTS = [Segment(1.0, 3.0, "ann"), Segment(2.5, 6.0, "bob"), Segment(6.5, 8.0, "ann")]


def recording(folder, name="a", seconds=10.0, rate=16000, channels=1):
    path = folder / f"{name}.wav"
    samples = np.random.default_rng(len(name)).uniform(-0.5, 0.5, (round(rate * seconds), channels))
    soundfile.write(path, samples, rate, subtype="FLOAT")
    return Recording.from_file(path, recording_id=name)


def cut(folder, name="a", segments=SEGMENTS, custom=None, **kwargs):
    made = recording(folder, name, **kwargs)
    supervisions = [
        SupervisionSegment(f"{name}-{k}", name, start=s.start, duration=s.duration, speaker=s.speaker)
        for k, s in enumerate(segments or [])
    ]
    kind, channel = (MonoCut, 0) if made.num_channels == 1 else (MultiCut, list(range(made.num_channels)))
    return kind(name, 0, made.duration, channel, supervisions=supervisions, recording=made, custom=custom)


def dataset(**kwargs):
    return LhotseDiarizationDataset(num_slots=4, **kwargs)


def check(batch, row, samples, segments):
    expected = frame_targets(segments, num_samples=samples, num_slots=4)
    assert batch.audio_lengths[row] == samples
    assert batch.target_lengths[row] == len(expected)
    np.testing.assert_array_equal(batch.targets[row, : len(expected)].numpy(), expected)


def test_supervisions_and_windows_of_them(tmp_path):
    whole = cut(tmp_path)
    batch = dataset()[CutSet([whole, whole.truncate(offset=2.0, duration=3.0)])]
    check(batch, 0, 160_000, SEGMENTS)
    check(batch, 1, 48_000, [Segment(0, 1, "ann"), Segment(0.5, 4, "bob")])
    assert torch.equal(batch.audio[0], torch.from_numpy(read_audio(tmp_path / "a.wav")))
    assert torch.equal(batch.audio[1, :48_000], batch.audio[0, 32_000:80_000])


def test_rttm_wins_and_follows_the_start_and_the_speed_of_the_cut(tmp_path):
    write_rttm(tmp_path / "a.rttm", SEGMENTS, "a")
    made = cut(tmp_path, segments=[Segment(0.0, 10.0, "everything")], custom={"rttm_filepath": "a.rttm", "offset": 99})
    assert cut_segments(made) == SEGMENTS  # relative to the folder of the audio; NeMo would look at `offset`
    later = cut_segments(made.truncate(offset=2.0, duration=3.0))
    assert [round(s.start, 6) for s in later] == [-1.0, 0.5, 4.5]
    fast = cut_segments(made.perturb_speed(1.25))
    assert [(round(s.start, 6), round(s.end, 6)) for s in fast] == [(0.8, 2.4), (2.0, 4.8), (5.2, 6.4)]


def test_mixed_cuts_with_noise_and_with_another_conversation(tmp_path):
    first, second = cut(tmp_path, "a"), cut(tmp_path, "bb", segments=[Segment(0.0, 2.0, "eve")], seconds=2.0)
    noise = cut(tmp_path, "noise", segments=None, seconds=10.0)
    batch = dataset()[CutSet([first.mix(second, offset_other_by=4.0).mix(noise, snr=10).pad(duration=12.0)])]
    check(batch, 0, 192_000, [*SEGMENTS, Segment(4.0, 6.0, "eve")])


def test_rates_and_channels(tmp_path):
    stereo = cut(tmp_path, "a", rate=48000, channels=2)
    batch = dataset()[CutSet([stereo])]
    check(batch, 0, 160_000, SEGMENTS)
    assert np.corrcoef(batch.audio[0].numpy(), read_audio(tmp_path / "a.wav"))[0, 1] > 0.97  # two resamplers


def test_a_cut_that_says_nothing_of_speakers_is_an_error_not_one_speaker(tmp_path):
    nameless = cut(tmp_path, segments=None)
    with pytest.raises(ManifestError, match="Cut `a` has neither `rttm_filepath` nor `seglst_filepath`"):
        cut_segments(nameless)
    nameless.supervisions.append(SupervisionSegment("x", "a", 0.0, 10.0, text="hello"))
    with pytest.raises(ManifestError, match="nobody knows who speaks"):
        dataset()[CutSet([nameless])]


def broken(folder, name):
    made = cut(folder, name)
    (folder / f"{name}.wav").unlink()
    return made


def test_an_unreadable_cut_takes_its_targets_with_it(tmp_path):
    cuts = CutSet([cut(tmp_path, "a"), broken(tmp_path, "bb"), cut(tmp_path, "ccc", segments=SEGMENTS[:1])])
    with pytest.raises(AudioError, match="Cut `bb`"):
        dataset()[cuts]
    tolerant = dataset(max_failed_share=0.01)
    with pytest.warns(FailedRecordingWarning, match="bb"):
        batch = tolerant[cuts]
    assert len(batch.audio) == 2
    check(batch, 0, 160_000, SEGMENTS)
    check(batch, 1, 160_000, SEGMENTS[:1])
    assert tolerant.failures.failed == ["bb"]
    with pytest.warns(FailedRecordingWarning), pytest.raises(TooManyFailuresError, match="`bb`, `dddd`"):
        tolerant[CutSet([broken(tmp_path, "dddd")])]


def test_a_batch_of_nothing_but_unreadable_cuts_is_silence(tmp_path):
    with pytest.warns(FailedRecordingWarning):
        batch = dataset(max_failed_share=0.01)[CutSet([broken(tmp_path, "bb")])]
    assert batch.audio.shape == (1, 16000)
    assert batch.targets.shape == (1, 13, 4)
    assert not batch.audio.any()
    assert not batch.targets.any()


def test_nan_is_an_error(tmp_path):
    soundfile.write(tmp_path / "n.wav", np.full(16000, np.nan), 16000, subtype="FLOAT")
    bad = MonoCut("n", 0, 1.0, 0, recording=Recording.from_file(tmp_path / "n.wav"))
    bad.supervisions = [SupervisionSegment("x", "n", 0.0, 1.0, speaker="ann")]
    with pytest.raises(AudioError, match="Cut `n` holds NaN"):
        dataset()[CutSet([bad])]
