# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Transcripts of joint models: pieces in order of arrival, and back to the speakers of the recording."""

import numpy as np
import pytest
import soxr
import torch
from omegaconf import OmegaConf

from nemo_sortformer.config import ConfigError
from nemo_sortformer.data.segment import Segment
from nemo_sortformer.data.text_tokenizer import train_text_tokenizer
from nemo_sortformer.functional.serialized import SpokenWord
from nemo_sortformer.inference.remembered_features import remembered_features
from nemo_sortformer.inference.results import Diarization
from nemo_sortformer.inference.stream_transcribe import stream_with_speakers
from nemo_sortformer.inference.transcribe import transcribe_with_speakers
from nemo_sortformer.inference.transcribe_joint import transcribe_sessions

RATE = 16000


def make_model(tmp_path_factory):
    """The smallest joint model."""
    from nemo_sortformer import SortformerJointASR

    folder = str(train_text_tokenizer(["yes no"], tmp_path_factory.mktemp("tokenizer"), vocab_size=6, kind="word"))
    encoder = {
        "_target_": "nemo.collections.asr.modules.ConformerEncoder",
        "feat_in": 16,
        "n_layers": 1,
        "d_model": 16,
        "subsampling": "stacking_norm",
        "subsampling_factor": 8,
        "n_heads": 2,
        "conv_kernel_size": 3,
        "conv_norm_type": "layer_norm",
    }
    state_encoder = {
        "_target_": "nemo_sortformer.modules.SortformerEncoder",
        "num_layers": 2,
        "hidden_size": 16,
        "inner_size": 16,
        "num_attention_heads": 2,
    }
    cfg = {
        "max_num_of_spks": 3,
        "preprocessor": {"features": 16},
        "encoder": encoder,
        "transformer_encoder": state_encoder,
        "loss": {"sort_weight": 1.0, "pil_weight": 0.0},
        "text": {"words": {"kind": "ctc_streams", "tokenizer": {"type": "bpe", "dir": folder}}},
    }
    torch.manual_seed(0)
    return SortformerJointASR(cfg=OmegaConf.create(cfg)).eval()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A joint model that has learnt nothing."""
    return make_model(tmp_path_factory)


def diarization(spans, seconds, *, offset=0.0, slots=4):
    """A result in which speaker k speaks in the k-th list of spans."""
    frames = round(seconds / 0.08)
    probs = np.zeros((frames, slots), dtype=np.float32)
    segments = []
    for speaker, own in enumerate(spans):
        for start, end in own:
            probs[round(start / 0.08) : round(end / 0.08), speaker] = 0.9
            segments.append(Segment(start + offset, end + offset, f"speaker_{speaker}"))
    return Diarization(
        recording="talk", segments=tuple(sorted(segments)), duration=seconds, offset=offset, probs=probs
    )


@pytest.fixture
def asked(model, monkeypatch):
    """Let the model say, of each piece, one word per slot that speaks; what it was asked is kept."""
    calls = []

    def write_down(audio, lengths, *, head=None, labels=None):
        calls.append((audio, lengths, labels))
        rows = []
        for row in labels:
            slots = [slot for slot in range(row.shape[1]) if (row[:, slot] > 0.5).any()]
            rows.append(
                [SpokenWord(f"w{slot}", 0.08 * int((row[:, slot] > 0.5).int().argmax()), 99.0, slot) for slot in slots]
            )
        return None, rows

    monkeypatch.setattr(model, "write_down", write_down)
    return calls


def test_words_go_to_the_speakers_of_the_whole_recording_though_a_piece_has_its_own_order(model, asked):
    known = diarization([[(0.8, 8.0)], [(12.0, 16.0)], [(8.8, 11.2), (16.8, 19.2)]], 20.0)
    audio = np.zeros(20 * RATE, dtype=np.float32)
    (found,) = transcribe_sessions(model, audio, sample_rate=RATE, diarizations=[known], max_seconds=12.0)
    assert {(word.text, word.speaker) for word in found.words if word.start > 11.0} <= {
        ("w0", "speaker_1"),
        ("w1", "speaker_2"),
    }
    starts = {word.speaker: word.start for word in reversed(found.words)}
    assert starts["speaker_0"] == pytest.approx(0.8, abs=0.09)
    assert starts["speaker_1"] == pytest.approx(12.0, abs=0.09)
    assert starts["speaker_2"] == pytest.approx(8.8, abs=0.09)
    assert all(word.end <= 20.0 for word in found.words)
    assert sum(len(lengths) for _, lengths, _ in asked) == 2
    assert all(int(lengths.max()) <= 13 * RATE for _, lengths, _ in asked)


def test_silence_is_never_asked_about_and_has_no_words(model, asked):
    (found,) = transcribe_sessions(
        model, np.zeros(30 * RATE, dtype=np.float32), sample_rate=RATE, diarizations=[diarization([], 30.0)]
    )
    assert found.words == ()
    assert not asked


def test_more_speakers_than_slots_leave_those_with_most_speech(model, asked):
    spans = [[(0.0, 4.0)], [(0.8, 4.0)], [(1.6, 2.0)], [(2.4, 4.0)]]
    (found,) = transcribe_sessions(
        model, np.zeros(4 * RATE, dtype=np.float32), sample_rate=RATE, diarizations=[diarization(spans, 4.0)]
    )
    assert {word.speaker for word in found.words} == {"speaker_0", "speaker_1", "speaker_3"}


def test_times_are_those_of_the_file(model, asked):
    known = diarization([[(0.8, 2.0)]], 4.0, offset=10.0)
    (found,) = transcribe_sessions(model, np.zeros(4 * RATE, dtype=np.float32), sample_rate=RATE, diarizations=[known])
    assert found.words[0].start == pytest.approx(10.8, abs=0.09)
    assert found.words[0].end == 14.0


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"max_seconds": 0.1}, {"diarizations": []}])
def test_bad_options_are_named(model, options):
    with pytest.raises(ConfigError, match=f"`{next(iter(options))}`"):
        transcribe_sessions(model, np.zeros(RATE, dtype=np.float32), sample_rate=RATE, **options)


def test_a_model_that_has_learnt_nothing_still_gives_transcripts(model):
    audio = [0.1 * np.random.default_rng(0).standard_normal(size).astype(np.float32) for size in (800, 40000)]
    found = model.transcribe_sessions(audio, sample_rate=RATE, override_config={"onset": 0.05, "offset": 0.04})
    assert [one.duration for one in found] == [0.05, 2.5]
    assert all(word.end <= one.duration for one in found for word in one.words)


@pytest.fixture(scope="module")
def talkative(tmp_path_factory, make_audio):
    """One with a label head in which the first slot never rests and the others come and go; and a recording."""
    model, audio = make_model(tmp_path_factory), make_audio(12.0, seed=1)
    last, given = model.sortformer_modules.single_hidden_to_spks, torch.from_numpy(audio)[None]
    torch.manual_seed(0)
    with torch.no_grad():
        last.weight.normal_()
        for _ in range(2):
            logits = model(audio_signal=given, audio_signal_length=torch.tensor([given.shape[1]])).logits[0]
            last.weight.mul_(2 / logits.std(dim=0)[:, None])
            last.bias.sub_(logits.median(dim=0).values)
        last.bias[0] += 8
    return model, audio


@pytest.mark.parametrize(
    "way", [transcribe_sessions, lambda model, audio, **kw: transcribe_with_speakers(audio, model, **kw)]
)
@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_recording_that_is_one_stretch_is_encoded_once(talkative, way, batch_size):
    model, audio = talkative
    frame, heard = round(model.frame_seconds * RATE), []
    # whole frames: where NeMo stacks hops, half a frame counts for a recording alone, and not beside a longer one
    recordings = [audio, audio[: 80 * frame], audio[30 * frame :]]
    hook = model.encoder.register_forward_hook(
        lambda _, __, given, ___: heard.extend(given["length"].tolist()), with_kwargs=True
    )
    try:
        found = way(model, recordings, sample_rate=RATE, batch_size=batch_size)
        assert len(heard) == 3, "each once"
        anew = transcribe_sessions(
            model, recordings, sample_rate=RATE, diarizations=[one.diarization for one in found]
        )
        assert len(heard) == 6, "what is not remembered is heard again"
        way(model, recordings[:1], sample_rate=RATE, max_seconds=6.0)
        assert len(heard) > 8, "and so are pieces"
    finally:
        hook.remove()
    assert [one.words for one in found] == [one.words for one in anew]
    assert sum(len(one.words) for one in found) > 40


def test_states_from_remembered_features_are_those_of_the_recording(talkative):
    model, audio = talkative
    rows = torch.from_numpy(np.stack([audio, audio[::-1]]))
    lengths = torch.tensor([len(audio), 4 * RATE])
    with torch.no_grad(), remembered_features(model.encoder) as memory:
        expected = model.encode(rows, lengths)
        assert memory.take(*model.mel_features(0.5 * rows.flip(1), lengths)) is None
        alone = model.mel_features(rows[1:, : 4 * RATE], lengths[1:])
        features, frames = memory.take(*alone)
        assert memory.take(*alone) is None, "each once"
    found = model.encode_features(features, frames)
    count = int(frames[0])
    torch.testing.assert_close(found.states[0], expected.states[1, :count], rtol=0, atol=1e-5)
    torch.testing.assert_close(found.features[0], expected.features[1, :count], rtol=0, atol=1e-5)


def words_of(updates):
    return [word for update in updates for word in update.words]


def test_a_stream_of_one_stretch_is_written_down_as_the_whole_recording_is(talkative):
    model, audio = talkative
    [offline] = transcribe_with_speakers(audio, model, sample_rate=RATE)
    slots = offline.diarization.slots  # who is named by arrival there is named by column in a stream
    expected = {(w.text, w.start, w.end, f"speaker_{slots[int(w.speaker[-1])]}") for w in offline.words}
    found = words_of(stream_with_speakers([audio], model, latency="30.4s", max_seconds=30.0))
    assert {word[:4] for word in found} == expected
    assert len(found) == len(offline.words) > 20
    assert len({word.speaker for word in found}) == 3


def test_a_stream_hears_each_stretch_from_a_whole_frame_on_whatever_its_pieces(talkative, monkeypatch):
    model, audio = talkative
    frame, calls, real = round(model.frame_seconds * RATE), [], model.write_down

    def write_down(samples, lengths, **options):
        calls.extend(row[:length].numpy() for row, length in zip(samples, lengths.tolist()))
        return real(samples, lengths, **options)

    monkeypatch.setattr(model, "write_down", write_down)
    updates = list(stream_with_speakers(np.array_split(audio, 77), model, latency="1.04s", max_seconds=4.0))
    past = 0
    for heard in calls:
        [first] = [k for k in range(len(audio) // frame) if np.array_equal(audio[k * frame :][: len(heard)], heard)]
        assert first in (past - 1, past), "nothing is left out, and no more than the frame of the cut is heard twice"
        past = first + -(-len(heard) // frame)
    assert past == -(-len(audio) // frame)
    assert len(calls) >= 3
    assert max(map(len, calls)) <= 4.2 * RATE
    before = 0.0
    for update in updates:
        assert all(before - 0.17 < word.start <= word.end <= update.seconds for word in update.words)
        before = update.seconds
    assert words_of(stream_with_speakers([audio], model, latency="1.04s", max_seconds=4.0)) == words_of(updates)


def test_stretches_with_short_pauses_between_them_begin_on_whole_frames_too(talkative, monkeypatch):
    model, audio = talkative
    frame, calls, real = round(model.frame_seconds * RATE), [], model.write_down
    bias = model.sortformer_modules.single_hidden_to_spks.bias
    monkeypatch.setattr(bias, "data", bias.detach() - torch.tensor([11.0, 3.0, 3.0]))

    def write_down(samples, lengths, **options):
        calls.extend(row[:length].numpy() for row, length in zip(samples, lengths.tolist()))
        return real(samples, lengths, **options)

    monkeypatch.setattr(model, "write_down", write_down)
    list(stream_with_speakers(np.array_split(audio, 77), model, latency="0.32s", pause_seconds=0.2, max_seconds=2.0))
    assert len(calls) > 5
    for heard in calls:
        assert any(np.array_equal(audio[k * frame :][: len(heard)], heard) for k in range(len(audio) // frame))


def test_a_stream_at_another_rate_and_one_of_silence(talkative, monkeypatch):
    model, audio = talkative
    other = soxr.resample(audio, RATE, 24_000)
    found = words_of(stream_with_speakers(np.array_split(other, 9), model, sample_rate=24_000, latency="1.04s"))
    assert len(found) > 20
    assert all(word.end <= 12.0 for word in found)
    monkeypatch.setattr(model.sortformer_modules.single_hidden_to_spks.bias, "data", torch.full((3,), -99.0))
    updates = list(stream_with_speakers([np.zeros(5 * RATE, np.float32)], model, latency="1.04s"))
    assert not words_of(updates)
    assert updates[-1].is_last


def test_what_a_joint_model_cannot_be_told_is_named(talkative):
    model, audio = talkative
    with pytest.raises(ConfigError, match="`asr_options` of a joint model has `head` alone.*`source_lang`"):
        stream_with_speakers([], model, asr_options={"source_lang": "en"})
    with pytest.raises(ConfigError, match="`head` must be one of words, but is 'text'"):
        transcribe_with_speakers(audio[:RATE], model, sample_rate=RATE, asr_options={"head": "text"})
    with pytest.raises(ConfigError, match="`overlap` must be left at `auto` with a joint model.*`masked`"):
        transcribe_with_speakers(audio[:RATE], model, sample_rate=RATE, overlap="masked")
    with pytest.raises(ConfigError, match="`diarizer` must be left out"):
        stream_with_speakers([], model, model)
    found = words_of(stream_with_speakers([audio], model, latency="30.4s", asr_options={"head": "words"}))
    assert found == words_of(stream_with_speakers([audio], model, latency="30.4s"))
