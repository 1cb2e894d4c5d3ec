# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Every kind of audio file that people have, and what reading it gives."""

import warnings

import numpy as np
import pytest
import soundfile

from nemo_sortformer.data.audio import AudioError, AudioWarning, audio_info, read_audio


def tone(seconds: float, rate: int = 16000, hertz: float = 440.0, level: float = 0.3) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.fixture(autouse=True)
def warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3"])
def test_samples_come_back_as_they_were_written(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    soundfile.write(path, tone(1.5), 16000)
    audio = read_audio(path)
    assert audio.dtype == np.float32
    assert audio.shape == (24000,)
    assert np.abs(audio - tone(1.5)).max() < (0.02 if ending in ("ogg", "mp3") else 1e-4)
    assert audio_info(path).seconds == 1.5


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_other_rates_are_resampled_to_the_same_tone(tmp_path, rate):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(2.0, rate), rate, subtype="FLOAT")
    audio = read_audio(path)
    assert len(audio) == 32000
    middle = slice(1600, -1600)
    assert np.abs(audio[middle] - tone(2.0)[middle]).max() < 5e-3


def test_reading_in_blocks_changes_nothing(tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.random.default_rng(0).normal(size=44100 * 5) * 0.1, 44100, subtype="FLOAT")
    whole = read_audio(path)
    monkeypatch.setattr("nemo_sortformer.data.audio._BLOCK_SECONDS", 1)
    assert np.abs(read_audio(path) - whole).max() < 1e-6


def test_channels_are_averaged(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack([tone(1.0), np.zeros(16000)], axis=1), 16000, subtype="FLOAT")
    assert audio_info(path).channels == 2
    np.testing.assert_allclose(read_audio(path), tone(1.0) / 2, atol=1e-7)


def test_channels_that_cancel_each_other_are_a_warning(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack([tone(1.0), -tone(1.0)], axis=1), 16000, subtype="FLOAT")
    with pytest.warns(AudioWarning, match="cancel"):
        read_audio(path)


def test_a_stretch_is_the_same_as_the_slice_of_the_whole(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 48000), 16000)
    whole = read_audio(path)
    np.testing.assert_array_equal(read_audio(path, offset=0.5, duration=1.25), whole[8000:28000])
    np.testing.assert_array_equal(read_audio(path, offset=2.5), whole[40000:])
    np.testing.assert_array_equal(
        read_audio(path, offset=2.5, duration=0.55), whole[40000:]
    )  # rounding of the manifest


@pytest.mark.parametrize(
    "offset, duration, words",
    [
        (3.0, None, "ends at 3.000"),
        (99.0, 1.0, "ends at"),
        (2.5, 1.0, "fetch the file again"),
        (-1.0, None, "0 or more"),
    ]
    + [(float("nan"), None, "0 or more"), (0.0, 0.0, "more than 0"), (0.0, float("nan"), "more than 0")],
)
def test_a_stretch_beyond_the_file_is_an_error(tmp_path, offset, duration, words):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(3.0), 16000)
    with pytest.raises(AudioError, match=words) as caught:
        read_audio(path, offset=offset, duration=duration)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3"])
def test_a_truncated_file_is_an_error_not_a_shorter_recording(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 48000), 16000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioError, match="truncated"):
        read_audio(path)


def test_a_wav_written_to_a_pipe_without_a_size_is_whole(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(1.0), 16000)
    data = path.read_bytes()
    path.write_bytes(data[:4] + b"\xff" * 4 + data[8:40] + b"\xff" * 4 + data[44:])
    assert len(read_audio(path)) == 16000


def test_files_that_are_no_audio_are_errors_with_their_path(tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("not a sound\n" * 100)
    soundfile.write(tmp_path / "nothing.wav", np.zeros(0), 16000)
    for name, words in [
        ("missing.wav", "no such file"),
        ("empty.wav", "0 bytes"),
        ("text.wav", "not audio"),
        ("nothing.wav", "no samples"),
        (".", "folder"),
    ]:
        for read in (read_audio, audio_info):
            with pytest.raises(AudioError, match=words) as caught:
                read(tmp_path / name)
            assert str(caught.value).startswith(str(tmp_path / name))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_an_error(tmp_path, bad):
    samples = tone(1.0)
    samples[5000] = bad
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match="NaN"):
        read_audio(tmp_path / "a.wav")


def test_clipped_audio_is_read_with_a_warning(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(1.0, level=3.0).clip(-1, 1), 16000)
    with pytest.warns(AudioWarning, match="clipped"):
        assert len(read_audio(path)) == 16000
    soundfile.write(path, tone(1.0, level=0.95), 16000)
    read_audio(path)  # loud is not clipped


def test_silence_and_the_shortest_recordings_are_read(tmp_path):
    for seconds in (1.0, 0.05, 1 / 16000):
        soundfile.write(tmp_path / "a.wav", np.zeros(round(16000 * seconds)), 16000)
        assert len(read_audio(tmp_path / "a.wav")) == round(16000 * seconds)
    soundfile.write(tmp_path / "a.wav", np.zeros(1), 48000)
    assert len(read_audio(tmp_path / "a.wav")) == 1


@pytest.mark.slow
def test_an_hour_is_read(tmp_path):
    path = tmp_path / "hour.wav"
    with soundfile.SoundFile(path, "w", samplerate=8000, channels=2) as file:
        for _ in range(60):
            file.write(np.full((60 * 8000, 2), 0.1, dtype=np.float32))
    audio = read_audio(path)
    assert len(audio) == 3600 * 16000
    assert abs(audio[len(audio) // 2] - 0.1) < 1e-3
