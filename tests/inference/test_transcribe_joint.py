# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Transcripts of joint models: pieces in order of arrival, and back to the speakers of the recording."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from nemo_sortformer.config import ConfigError
from nemo_sortformer.data.segment import Segment
from nemo_sortformer.data.text_tokenizer import train_text_tokenizer
from nemo_sortformer.functional.serialized import SpokenWord
from nemo_sortformer.inference.results import Diarization
from nemo_sortformer.inference.transcribe_joint import transcribe_sessions

RATE = 16000


@pytest.fixture(scope="module")
def model(tmp_path_factory):
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
