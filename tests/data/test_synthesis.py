# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The speech synthesizer: what it says, that it says it twice alike, and its conversations."""

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from nemo_sortformer.config.mixing import MixingConfig
from nemo_sortformer.data.mixing import build_pool, simulate_conversation, synthetic_pool
from nemo_sortformer.data.mixing.synthetic import LANGUAGES, TIMBRES
from nemo_sortformer.data.synthesis import (
    CAST,
    SpeechSynthesizer,
    SynthesisError,
    SynthesizerMissingError,
    synthesize_conversation,
    trim_silence,
)
from nemo_sortformer.data.targets import frame_targets

RATE = 16_000
INSTALLED = importlib.util.find_spec("espeakng_loader") is not None
needs_synthesizer = pytest.mark.skipif(not INSTALLED, reason="espeakng-loader is not installed (extra `demo`)")


@pytest.fixture(scope="module")
def synthesizer() -> SpeechSynthesizer:
    return SpeechSynthesizer()


def fundamental(speech: np.ndarray) -> float:
    """Mean pitch by autocorrelation over the loud 40 ms frames, Hz."""
    frames = speech[: len(speech) // 640 * 640].reshape(-1, 640)
    frames = frames[np.square(frames).mean(axis=1) > 0.3 * np.square(frames).mean()]
    spectra = np.abs(np.fft.rfft(frames - frames.mean(axis=1, keepdims=True), 2048)) ** 2
    lags = np.fft.irfft(spectra)[:, 32:320]  # 50 to 500 Hz
    return float(np.median(RATE / (32 + lags.argmax(axis=1))))


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(SynthesizerMissingError, match=r"pip install 'nemo_sortformer\[demo\]'"):
        SpeechSynthesizer()


@needs_synthesizer
def test_speech_has_the_length_and_level_of_speech(synthesizer):
    speech = synthesizer.say("one two three four five six seven eight nine ten", "en-us+m3")
    assert speech.dtype == np.float32
    assert speech.ndim == 1
    assert 2 < len(speech) / RATE < 6
    assert 0.02 < np.sqrt(np.mean(speech**2)) < 0.5
    assert np.abs(speech).max() <= 1


@needs_synthesizer
def test_the_same_words_sound_the_same_whatever_was_said_in_between(synthesizer):
    first = synthesizer.say("the same words again", "en-gb+f2", pitch=1.2)
    synthesizer.say("something else altogether, at length", "de+m3", speed=1.5)
    np.testing.assert_array_equal(first, SpeechSynthesizer().say("the same words again", "en-gb+f2", pitch=1.2))
    code = (
        "import hashlib; from nemo_sortformer.data.synthesis import SpeechSynthesizer as S;"
        "print(hashlib.sha1(S().say('the same words again', 'en-gb+f2', pitch=1.2).tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert other == hashlib.sha1(first.tobytes()).hexdigest()


@needs_synthesizer
def test_speed_and_pitch_do_what_they_say(synthesizer):
    text = "the rain falls on the river and the long road"
    usual, fast, high = (synthesizer.say(text, **{k: v}) for k, v in [("speed", 1.0), ("speed", 1.6), ("pitch", 1.5)])
    assert len(usual) / len(fast) == pytest.approx(1.6, rel=0.15)
    assert fundamental(high) / fundamental(usual) == pytest.approx(1.5, rel=0.15)


@needs_synthesizer
def test_another_variant_is_another_voice(synthesizer):
    low, high = (fundamental(synthesizer.say("many years ago we were away", f"en-us+{v}")) for v in ("m3", "f2"))
    assert high > 1.3 * low


@needs_synthesizer
@pytest.mark.parametrize("voice", ["en-gb", "en-gb+m7", "fr-fr+f2", "cmn", "en-us+whisper"])
def test_codes_that_the_library_does_not_load_by_name_work(synthesizer, voice):
    assert len(synthesizer.say("12 3", voice)) > 0.3 * RATE


@needs_synthesizer
def test_all_languages_and_timbres_of_the_pool_exist(synthesizer):
    assert set(LANGUAGES) <= set(synthesizer.voices())
    assert set(TIMBRES) <= set(synthesizer.variants())
    assert len(synthesizer.voices()) > 100


@needs_synthesizer
@pytest.mark.parametrize(
    "arguments, match",
    [
        ({"voice": "en-uss"}, "no voice `en-uss`. Did you mean .*`en-us`"),
        ({"voice": "en-us+f33"}, "no variant `f33`. Did you mean .*`f3`"),
        ({"speed": 9.0}, "`speed` must be in"),
        ({"pitch": 0.1}, "`pitch` must be in"),
    ],
)
def test_a_wrong_voice_or_setting_names_itself(synthesizer, arguments, match):
    with pytest.raises(SynthesisError, match=match):
        synthesizer.say("hello", **arguments)


@needs_synthesizer
def test_nothing_to_say_is_no_samples(synthesizer):
    assert len(synthesizer.say("")) == 0


@needs_synthesizer
def test_threads_take_turns(synthesizer):
    texts = [f"number {k}" for k in range(8)]
    alone = [synthesizer.say(text) for text in texts]
    together: list = [None] * len(texts)

    def work(index: int) -> None:
        together[index] = synthesizer.say(texts[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for first, second in zip(alone, together, strict=True):
        np.testing.assert_array_equal(first, second)


@needs_synthesizer
def test_data_at_a_path_too_long_for_the_library_are_found(tmp_path, monkeypatch):
    import espeakng_loader

    deep = tmp_path / ("a" * 80) / ("b" * 80) / "espeak-ng-data"
    deep.parent.mkdir(parents=True)
    deep.symlink_to(espeakng_loader.get_data_path())
    short = tmp_path.parent / "t"
    short.mkdir(exist_ok=True)
    expected = SpeechSynthesizer().say("hello there")
    monkeypatch.setattr(espeakng_loader, "get_data_path", lambda: str(deep))
    monkeypatch.setattr("tempfile.tempdir", str(short))
    np.testing.assert_array_equal(SpeechSynthesizer().say("hello there"), expected)
    shutil.rmtree(short)


def test_silence_is_cut_off_at_the_ends_only():
    hum = np.sin(np.arange(RATE) * 0.1)
    quiet = np.zeros(RATE // 2)
    assert len(trim_silence(np.concatenate([quiet, hum, quiet, hum, quiet]))) == pytest.approx(2.5 * RATE, abs=320)
    assert len(trim_silence(quiet)) == 0


@needs_synthesizer
@pytest.mark.parametrize("num_speakers", [1, 3, 4, len(CAST)])
def test_a_conversation_has_its_voices_and_true_times(num_speakers):
    audio, segments, texts = synthesize_conversation(seed=1, num_speakers=num_speakers, seconds=45.0)
    again, same_segments, _ = synthesize_conversation(seed=1, num_speakers=num_speakers, seconds=45.0)
    np.testing.assert_array_equal(audio, again)
    assert segments == same_segments == sorted(segments)
    assert len(audio) == 45 * RATE
    assert np.abs(audio).max() <= 1
    assert len(texts) == len(segments)
    assert {segment.speaker for segment in segments} == {f"voice_{k + 1}" for k in range(num_speakers)}
    count = frame_targets(segments, num_samples=len(audio), num_slots=6).sum(axis=1)
    power = np.square(audio[: len(count) * 1280]).copy()
    power.resize(len(count) * 1280)
    power = power.reshape(-1, 1280).mean(axis=1)
    still = (count == 0) & (np.roll(count, 1) == 0) & (np.roll(count, -1) == 0)
    assert power[still].max() < 1e-4  # where no one speaks there is noise only
    assert np.median(power[count > 0]) > 100 * np.median(power[still])
    assert 0.7 < (count > 0).mean() < 0.97
    if num_speakers > 1:
        assert 0.005 < (count > 1).mean() < 0.15


@needs_synthesizer
def test_a_conversation_without_time_or_voices_is_refused():
    with pytest.raises(SynthesisError, match=r"`num_speakers` must be in \[1, 6\], but is 7"):
        synthesize_conversation(num_speakers=7)
    with pytest.raises(SynthesisError, match="`seconds` must leave time for 4 voices"):
        synthesize_conversation(num_speakers=4, seconds=3.0)


@needs_synthesizer
def test_a_synthetic_pool_feeds_the_mixer_and_grows_without_changing():
    small, large = synthetic_pool(2, num_utterances=3), synthetic_pool(3, num_utterances=3)
    assert [speaker.name for speaker in large.speakers][:2] == [speaker.name for speaker in small.speakers]
    np.testing.assert_array_equal(large.samples[: len(small.samples)], small.samples)
    config = MixingConfig(synthetic_speakers=3, session_seconds=8.0, speaker_count_weights=[0, 0, 1])
    audio, segments = simulate_conversation(build_pool(config), config, np.random.default_rng(0))
    assert len(audio) == 8 * RATE
    assert all(segment.speaker.startswith("synthetic") for segment in segments)


@needs_synthesizer
def test_the_data_folder_is_not_touched():
    import espeakng_loader

    folder = Path(espeakng_loader.get_data_path())
    before = sorted(path.name for path in folder.iterdir())
    SpeechSynthesizer().say("hello")
    assert sorted(path.name for path in folder.iterdir()) == before
