# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Recognizers that are told whom to write down: NeMo's multi-talker model, small, built and saved by NeMo."""

import copy

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch.testing import assert_close

from nemo_sortformer.config.merge import ConfigError
from nemo_sortformer.data.segment import Segment
from nemo_sortformer.inference.recognizer import load_asr, recognize
from nemo_sortformer.inference.results import Diarization
from nemo_sortformer.inference.speaker_targets import has_speaker_kernels, speaker_targets
from nemo_sortformer.inference.transcribe import TranscribeOptions, transcribe_recording, transcribe_with_speakers
from tests.inference.conftest import make_audio
from tests.inference.test_recognizer import ENCODER, FRONT_END, RATE, transducer, write_tokenizer

SEGMENTS = (
    Segment(0.2, 2.0, "speaker_0"),
    Segment(1.1, 2.9, "speaker_1"),  # at once with the first
    Segment(2.5, 3.6, "speaker_0"),
    Segment(6.0, 7.5, "speaker_1"),
)


def test_targets_say_when_the_speaker_and_when_others_speak():
    own, others = speaker_targets(
        SEGMENTS, "speaker_1", start=1.0, num_samples=2 * RATE, sample_rate=RATE, subsampling=8
    )
    times = 1.0 + 0.08 * np.arange(25)
    inside = np.abs(times[:, None] - [1.1, 2.0, 2.5, 2.9]).min(axis=1) > 0.06  # away from the edges
    assert own.shape == others.shape == (25,)
    assert np.array_equal(own[inside], ((times > 1.1) & (times < 2.9))[inside])
    assert np.array_equal(others[inside], ((times < 2.0) | (times > 2.5))[inside])


def test_targets_of_two_others_at_once_count_once_and_nobody_is_zero():
    three = [*SEGMENTS, Segment(0.0, 8.0, "speaker_2")]
    given = {"start": 0.0, "num_samples": 8 * RATE, "sample_rate": RATE, "subsampling": 8}
    own, others = speaker_targets(three, "speaker_0", **given)
    assert set(np.unique(others)) == {1.0}
    assert own.sum() < 50
    own, others = speaker_targets([], "speaker_0", **given)
    assert own.sum() == others.sum() == 0


@pytest.fixture(scope="module")
def kernel_file(tmp_path_factory):
    """The .nemo file of a multi-talker model with kernels at two layers, and random weights."""
    from nemo.collections.asr.models import EncDecMultiTalkerRNNTBPEModel

    folder = tmp_path_factory.mktemp("kernels")
    torch.manual_seed(3)
    cfg = {
        "sample_rate": RATE,
        "preprocessor": FRONT_END,
        "encoder": ENCODER | {"n_layers": 2},
        "tokenizer": {"dir": write_tokenizer(folder, "bpe"), "type": "bpe"},
        "spk_kernel_type": "ff",
        "spk_kernel_layers": [0, 1],
        "add_bg_spk_kernel": True,
        **transducer(tdt=False),
    }
    model = EncDecMultiTalkerRNNTBPEModel(cfg=OmegaConf.create(copy.deepcopy(cfg))).eval()
    with torch.no_grad():  # so that it writes much, and the kernels change it
        for kernels in (model.spk_kernels, model.bg_spk_kernels):
            for parameter in kernels.parameters():
                parameter.mul_(4)
        for parameter in model.joint.parameters():
            parameter.mul_(3)
        model.joint.joint_net[-1].bias[-1] -= 1.5
    model.save_to(str(folder / "kernels.nemo"))
    return folder / "kernels.nemo"


@pytest.fixture(scope="module")
def model(kernel_file):
    return load_asr(kernel_file, device="cpu")


LATER = (Segment(0.5, 2.0, "speaker_0"), *(s._replace(start=s.start + 4.0, end=s.end + 4.0) for s in SEGMENTS[:3]))
"""A short stretch before a long one: they are decoded in the other order."""


def told_by_nemo(model, audio, own, others):
    """Text and encoder's output of one piece by NeMo's own forward.

    The targets are as long as the encoder's output: where they are shorter NeMo puts ones before them, and so moves
    them in time.
    """
    with torch.no_grad():
        mel, _ = model.preprocessor(input_signal=torch.from_numpy(audio)[None], length=torch.tensor([len(audio)]))
        own, others = (np.pad(one, (0, -(-mel.shape[2] // 8) - len(one))) for one in (own, others))
        model.set_speaker_targets(torch.from_numpy(own)[None], torch.from_numpy(others)[None])
        encoded, lengths = model(
            input_signal=torch.from_numpy(audio)[None], input_signal_length=torch.tensor([len(audio)])
        )
        model.clear_speaker_targets()
        [found] = model.decoding.rnnt_decoder_predictions_tensor(encoded, lengths, return_hypotheses=True)
    return " ".join(found.text.split()), encoded[0]


def test_each_speaker_is_decoded_as_nemo_does_with_the_same_targets(model):
    audio = make_audio(8.0, seed=3)
    found_states = []
    hook = model.encoder.register_forward_hook(lambda module, args, out: found_states.append(out))
    diarization = Diarization(recording="talk", segments=LATER, duration=8.0)
    found = transcribe_recording(model, audio, diarization, TranscribeOptions(overlap="kernels", batch_size=2))
    hook.remove()
    assert len(found_states) == 2  # three pieces, at most two at once
    ours = [state[:, :length] for states, lengths in found_states for state, length in zip(states, lengths.tolist())]
    pieces = [(62_400, 126_400, "speaker_0"), (62_400, 126_400, "speaker_1"), (3_200, 36_800, "speaker_0")]
    said = {"speaker_0": [], "speaker_1": []}
    for number, (first, last, name) in enumerate(pieces):
        piece = audio[first:last]
        own, others = speaker_targets(
            LATER, name, start=first / RATE, num_samples=len(piece), sample_rate=RATE, subsampling=8
        )
        text, encoded = told_by_nemo(model, piece, own, others)
        frames = ours[number].shape[1]
        assert_close(ours[number], encoded[:, :frames], atol=1e-5, rtol=1e-5)
        said[name] = text.split() + said[name]  # the last piece is the first in time
    assert {name: [w.text for w in found.words if w.speaker == name] for name in said} == said
    assert said["speaker_0"] != said["speaker_1"]
    for word in found.words:
        assert 0 <= word.start < word.end <= 8.0


def test_kernels_are_chosen_where_they_are_and_the_model_is_as_it_was(model, tiny_model):
    audio = make_audio(8.0, seed=3)
    diarization = Diarization(recording="talk", segments=SEGMENTS, duration=8.0)
    by_name = {
        overlap: transcribe_recording(model, audio, diarization, TranscribeOptions(overlap=overlap)).words
        for overlap in ("auto", "kernels", "shared", "masked")
    }
    assert by_name["auto"] == by_name["kernels"] != by_name["shared"]
    assert model.spk_targets is None
    assert model.bg_spk_targets is None
    assert "_transcribe_forward" not in vars(model)
    passes = []
    hook = tiny_model.encoder.register_forward_hook(lambda *given: passes.append(1))
    transcribe_with_speakers(audio, model, tiny_model, sample_rate=RATE)
    hook.remove()
    assert len(passes) == 1  # of the diarizer, for all speakers


def test_without_targets_one_speaker_speaks_all_the_time(model):
    piece = make_audio(3.0, seed=5)
    ones = np.ones(38, np.float32)
    text, _ = told_by_nemo(model, piece, ones, 0 * ones)
    assert recognize(model, [piece])[0].text == text
    assert text


def test_a_recognizer_without_kernels_is_refused_by_name():
    from tests.inference.test_transcribe import ToneRecognizer

    recognizer = ToneRecognizer()
    assert not has_speaker_kernels(recognizer)
    diarization = Diarization(recording="talk", segments=SEGMENTS, duration=8.0)
    with pytest.raises(ConfigError, match="`overlap` is `kernels`, but .* `ToneRecognizer`, has no speaker kernels"):
        transcribe_recording(
            recognizer, np.zeros(8 * RATE, np.float32), diarization, TranscribeOptions(overlap="kernels")
        )
