# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Who said what, with a recognizer that hears tones as words, so that every word, time and speaker is known."""

import warnings

import numpy as np
import pytest
import soundfile
import soxr
import torch
from omegaconf import OmegaConf

from nemo_sortformer.config.merge import ConfigError
from nemo_sortformer.data.segment import Segment
from nemo_sortformer.inference.recognizer import TranscriptWarning, recognize
from nemo_sortformer.inference.results import Diarization
from nemo_sortformer.inference.stream_transcribe import stream_with_speakers
from nemo_sortformer.inference.transcribe import (
    TranscribeOptions,
    TranscriptionError,
    transcribe_recording,
    transcribe_with_speakers,
)
from nemo_sortformer.inference.transcript import TranscribedWord, Transcript

RATE = 16_000
STEP = 0.04


class Hypothesis:
    """What NeMo's recognizers return."""

    def __init__(self, words, *, timed):
        self.text = " ".join(row["word"] for row in words)
        self.timestamp = {"word": words} if timed else {}


class ToneRecognizer(torch.nn.Module):
    """Hears a tone of n * 100 Hz as the word `wn`; where two sound at once the louder one."""

    def __init__(self, rate=RATE, *, timed=True):
        super().__init__()
        self.cfg = OmegaConf.create({"sample_rate": rate, "preprocessor": {"window_stride": 0.01}})
        self.encoder = torch.nn.Linear(1, 1)
        self.encoder.subsampling_factor = 4
        self.rate, self.timed = rate, timed
        self.lengths: list[int] = []

    def transcribe(self, audio, batch_size=4, return_hypotheses=False, verbose=True, timestamps=None):
        if timestamps and not self.timed:
            raise RuntimeError("this model has no timestamps")
        return [Hypothesis(self.words(piece), timed=self.timed) for piece in audio]

    def words(self, samples):
        self.lengths.append(len(samples))
        assert len(samples) >= self.rate, "NeMo would pad this on both sides"
        n = round(STEP * self.rate)
        frames = samples[: len(samples) // n * n].reshape(-1, n)
        sizes = np.abs(np.fft.rfft(frames, 4 * n, axis=1))
        numbers = np.rint(sizes.argmax(axis=1) * self.rate / (4 * n) / 100).astype(int)
        numbers[np.abs(frames).max(axis=1) < 0.02] = 0
        rows, last = [], 0
        for i, number in enumerate(numbers.tolist()):
            if number and number == last:
                rows[-1]["end"] = (i + 1) * STEP
            elif number:
                rows.append({"word": f"w{number}", "start": i * STEP, "end": (i + 1) * STEP})
            last = number
        return [row for row in rows if row["end"] - row["start"] > 1.5 * STEP]


def tones(rows, seconds, rate=RATE):
    """Audio with a tone of n * 100 Hz for each row (start, end, n, loudness)."""
    audio = np.zeros(round(seconds * rate), np.float32)
    for start, end, number, loudness in rows:
        time = np.arange(round(start * rate), round(end * rate))
        audio[time] += loudness * np.sin(2 * np.pi * number * 100 * time / rate).astype(np.float32)
    return audio


def diarization(rows, seconds, *, offset=0.0, probs=None):
    segments = tuple(sorted(Segment(offset + a, offset + b, f"speaker_{k}") for a, b, k in rows))
    return Diarization(recording="talk", segments=segments, duration=seconds, offset=offset, probs=probs)


TALK = [(1.0, 1.4, 5, 0.3), (1.5, 1.9, 7, 0.3), (4.0, 4.4, 9, 0.2), (4.6, 5.2, 11, 0.2), (58.0, 58.4, 6, 0.3)]
WHO = [(0.9, 2.0, 0), (3.9, 5.3, 1), (57.9, 58.5, 0)]


def rows_of(transcript):
    return [(w.text, round(w.start, 1), round(w.end, 1), int(w.speaker[-1])) for w in transcript.words]


EXPECTED = [
    ("w5", 1.0, 1.4, 0),
    ("w7", 1.5, 1.9, 0),
    ("w9", 4.0, 4.4, 1),
    ("w11", 4.6, 5.2, 1),
    ("w6", 58.0, 58.4, 0),
]


@pytest.mark.parametrize("overlap", ["shared", "masked"])
@pytest.mark.parametrize("max_seconds", [2.0, 30.0])
def test_words_have_the_times_of_the_file_and_their_speakers(overlap, max_seconds):
    options = TranscribeOptions(overlap=overlap, max_seconds=max_seconds, batch_size=2)
    found = transcribe_recording(ToneRecognizer(), tones(TALK, 60), diarization(WHO, 60), options)
    assert rows_of(found) == EXPECTED
    assert found.duration == 60


def test_only_speech_is_heard_in_stretches_that_are_not_too_long():
    asr = ToneRecognizer()
    transcribe_recording(asr, tones(TALK, 60), diarization(WHO, 60))
    assert sum(asr.lengths) / RATE < 6
    noise = tones([(0.0, 50.0, 5, 0.3)], 50)
    asr = ToneRecognizer()
    words = transcribe_recording(
        asr, noise, diarization([(0.0, 50.0, 0)], 50), TranscribeOptions(max_seconds=10)
    ).words
    assert max(asr.lengths) <= 10 * RATE + 1
    assert words[0].start == 0
    assert words[-1].end == pytest.approx(50, abs=0.05)


def test_a_part_of_a_file_has_the_times_of_the_file():
    found = transcribe_recording(ToneRecognizer(), tones(TALK, 60), diarization(WHO, 60, offset=100.0))
    assert rows_of(found) == [(text, a + 100, b + 100, k) for text, a, b, k in EXPECTED]


def test_words_said_at_once_are_heard_once_each_only_where_the_rest_is_masked():
    both = tones([(1.0, 3.0, 5, 0.1), (2.0, 2.4, 9, 0.4)], 6)
    probs = np.zeros((75, 2), np.float32)
    probs[11:39, 0], probs[24:31, 1] = 0.7, 0.9
    who = diarization([(0.9, 3.1, 0), (1.9, 2.5, 1)], 6, probs=probs)
    shared = transcribe_recording(ToneRecognizer(), both, who)
    assert [(text, k) for text, _, _, k in rows_of(shared)] == [("w5", 0), ("w9", 1), ("w5", 0)]
    masked = transcribe_recording(ToneRecognizer(), both, who, TranscribeOptions(overlap="masked"))
    for k in (0, 1):  # a mask takes away what is before and behind, but does not part what is said at once
        assert [text for text, _, _, speaker in rows_of(masked) if speaker == k] == ["w5", "w9", "w5"]
    assert min(w.start for w in masked.words if w.speaker == "speaker_1") > 1.75


def test_a_recognizer_without_times_spreads_its_words_and_says_so():
    with pytest.warns(TranscriptWarning, match="no times"):
        found = transcribe_recording(ToneRecognizer(timed=False), tones(TALK, 60), diarization(WHO, 60))
    assert [(text, k) for text, _, _, k in rows_of(found)] == [(text, k) for text, _, _, k in EXPECTED]
    inside = [any(a <= w.start and w.end <= b + 1e-6 for a, b, _ in WHO) for w in found.words]
    assert all(inside)


def test_nobody_speaks_or_nothing_is_heard():
    asr = ToneRecognizer()
    assert transcribe_recording(asr, tones([], 30), diarization([], 30)).words == ()
    assert asr.lengths == []
    assert transcribe_recording(asr, tones([], 30), diarization([(2.0, 4.0, 0)], 30)).words == ()
    assert recognize(asr, []) == []


def test_words_before_the_start_or_behind_the_end_of_a_piece_are_moved_inside():
    class Wild(ToneRecognizer):
        def words(self, samples):
            return [{"word": "early", "start": -1.0, "end": 0.1}, {"word": "late thing", "start": 99.0, "end": 100.0}]

    found = transcribe_recording(Wild(), tones(TALK, 60), diarization([(1.0, 2.0, 0)], 60))
    assert [w.text for w in found.words] == ["early", "late", "thing"]
    assert all(0.6 <= w.start < w.end <= 2.4 for w in found.words)


def test_the_models_hear_the_file_at_their_own_rates(tiny_model, tmp_path):
    path = tmp_path / "talk.wav"
    soundfile.write(path, soxr.resample(tones(TALK[:4], 8), RATE, 44_100), 44_100)
    for rate in (8_000, 16_000):
        [found] = transcribe_with_speakers(path, ToneRecognizer(rate), tiny_model)
        assert found.recording == "talk"
        assert found.diarization is not None
        assert {w.speaker for w in found.words} <= set(found.diarization.speakers)
        heard = {(w.text, round(w.start, 1)) for w in found.words}
        assert {("w5", 1.0), ("w7", 1.5), ("w9", 4.0), ("w11", 4.6)} <= heard


def test_thirty_seconds_of_silence_have_no_words():
    """With the shipped diarizer, whose threshold is trained."""
    found = transcribe_with_speakers(np.zeros(30 * RATE, np.float32), ToneRecognizer(), sample_rate=RATE)
    assert [transcript.words for transcript in found] == [()]
    assert found[0].to_srt() == ""


def test_a_bad_file_costs_only_itself(tiny_model, tmp_path):
    good = tmp_path / "good.wav"
    soundfile.write(good, tones(TALK[:2], 4), RATE)
    with pytest.raises(TranscriptionError, match="`missing`") as caught:
        transcribe_with_speakers([good, tmp_path / "missing.wav"], ToneRecognizer(), tiny_model)
    assert [transcript.recording for transcript in caught.value.results] == ["good"]
    failures = []
    results = transcribe_with_speakers([tmp_path / "missing.wav"], ToneRecognizer(), tiny_model, failures=failures)
    assert (results, [failure.recording for failure in failures]) == ([], ["missing"])

    class Broken(ToneRecognizer):
        def transcribe(self, audio, **options):
            raise RuntimeError("the decoder broke")

    with pytest.raises(TranscriptionError, match="the decoder broke"):
        transcribe_with_speakers(good, Broken(), tiny_model)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"overlap": "both"}, "`overlap` must be one of auto, shared, masked, kernels"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"max_seconds": 1.0}, "`max_seconds` must be at least 2"),
        ({"asr": torch.nn.Linear(1, 1)}, "`asr` must be a NeMo speech recognizer"),
        ({"diarizer": ToneRecognizer()}, "`diarizer` must be a diarizer"),
        ({"asr": "nowhere.nemo"}, "`asr` must be a .nemo file, but `nowhere.nemo` is missing"),
    ],
)
def test_wrong_settings_are_named(tiny_model, options, message):
    given = {"asr": ToneRecognizer(), "diarizer": tiny_model} | options
    with pytest.raises(ValueError, match=message):
        transcribe_with_speakers(np.zeros(RATE, np.float32), sample_rate=RATE, **given)


def test_transcribe_leaves_the_model_as_it_was():
    class Changing(ToneRecognizer):
        def transcribe(self, audio, **options):
            self.eval()
            self.cfg.decoding.compute_timestamps = True
            self.encoder.weight.requires_grad = False
            return super().transcribe(audio, **options)

    asr = Changing()
    asr.cfg.decoding = {"compute_timestamps": False}
    asr.train()
    recognize(asr, [tones(TALK[:2], 3)])
    assert asr.training
    assert asr.encoder.weight.requires_grad
    assert asr.cfg.decoding.compute_timestamps is False


def chunks(audio, seconds, rate=RATE):
    size = round(seconds * rate)
    return [audio[i : i + size] for i in range(0, len(audio), size)]


@pytest.mark.parametrize("latency", [pytest.param("0.32s", marks=pytest.mark.slow), "1.04s"])
def test_a_stream_gives_each_word_once_for_good_and_soon(tiny_model, latency):
    audio = tones([(a, b, 4 + i, 0.3) for i, (a, b) in enumerate((t, t + 0.4) for t in np.arange(0.5, 14, 1.3))], 15)
    words, seconds, lasts = [], 0.0, []
    for update in stream_with_speakers(
        chunks(audio, 0.1), ToneRecognizer(), tiny_model, latency=latency, max_seconds=4.0
    ):
        assert update.seconds >= seconds
        assert all(w.end >= seconds - 1e-6 for w in update.words)
        assert update.diarization.seconds - update.seconds < 4.0 + 4.0
        assert all(w.end <= update.seconds + 1e-6 for w in update.words)
        seconds = update.seconds
        words += update.words
        lasts.append(update.is_last)
    assert lasts == [False] * (len(lasts) - 1) + [True]
    heard = [w.text for w in words]
    assert len(heard) >= 10
    assert heard == sorted(heard, key=lambda text: int(text[1:]))
    slots = tiny_model.num_slots
    assert {w.speaker for w in words} <= {f"speaker_{k}" for k in range(slots)}


def test_a_stream_does_not_depend_on_the_pieces_or_their_rate(tiny_model):
    audio = tones(TALK[:4], 8)
    results = []
    for given, rate in (
        (chunks(audio, 0.1), RATE),
        ([audio], RATE),
        (chunks((audio * 32767).astype("<i2"), 0.37), RATE),
    ):
        updates = stream_with_speakers(given, ToneRecognizer(), tiny_model, sample_rate=rate, latency="1.04s")
        results.append([(w.text, round(w.start, 2), w.speaker) for u in updates for w in u.words])
    assert results[0] == results[1] == results[2]
    other = soxr.resample(audio, RATE, 48_000)
    updates = stream_with_speakers(chunks(other, 0.2, 48_000), ToneRecognizer(8_000), tiny_model, sample_rate=48_000)
    assert {w.text for u in updates for w in u.words} == {text for text, _, _ in results[0]}


def test_a_stream_of_nothing_ends(tiny_model):
    updates = list(stream_with_speakers([], ToneRecognizer(), tiny_model))
    assert [update.is_last for update in updates] == [True]
    with pytest.raises(ConfigError, match="`pause_seconds`"):
        stream_with_speakers([], ToneRecognizer(), tiny_model, pause_seconds=0.0)


def test_no_warning_where_the_times_are_there():
    with warnings.catch_warnings():
        warnings.simplefilter("error", TranscriptWarning)
        transcribe_recording(ToneRecognizer(), tones(TALK, 60), diarization(WHO, 60))


def test_a_joint_model_needs_no_diarizer_and_is_told_who_speaks(tiny_model, monkeypatch, tmp_path):
    path = tmp_path / "talk.wav"
    soundfile.write(path, tones(TALK[:2], 4), RATE)
    asked = []

    def transcribe_sessions(audio, *, sample_rate, diarizations, batch_size, max_seconds, memory):
        asked.append((len(audio[0]), sample_rate, batch_size, max_seconds))
        word = TranscribedWord("yes", 1.0, 1.2, diarizations[0].speakers[0])
        return [Transcript(recording=diarizations[0].recording, words=(word,), diarization=diarizations[0])]

    monkeypatch.setattr(tiny_model, "transcribe_sessions", transcribe_sessions, raising=False)
    for asr, diarizer in ((tiny_model, None), (None, tiny_model)):
        [found] = transcribe_with_speakers(path, asr, diarizer, batch_size=3, max_seconds=9.0)
        assert (found.recording, found.text) == ("talk", "yes")
    assert asked == [(4 * RATE, RATE, 3, 9.0)] * 2
    with pytest.raises(ConfigError, match="`diarizer` must be left out"):
        transcribe_with_speakers(path, tiny_model, tiny_model)
