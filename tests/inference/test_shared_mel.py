# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Mel features made once for two models: the numbers of making them twice, and how often they are made."""

import types

import numpy as np
import pytest
import soundfile
import torch
from torch.testing import assert_close

from nemo_sortformer.inference import transcribe as transcribe_module
from nemo_sortformer.inference.shared_mel import SharedMel, same_features, shared_mel
from nemo_sortformer.inference.transcribe import transcribe_with_speakers
from tests.inference.conftest import make_audio

RATE = 16_000


def front_end(**changes):
    """NeMo's mel front end as published models have it."""
    from nemo.collections.asr.modules import AudioToMelSpectrogramPreprocessor

    settings = {"normalize": "NA", "window_size": 0.025, "features": 40, "n_fft": 512, "pad_to": 0, "dither": 1e-5}
    return AudioToMelSpectrogramPreprocessor(sample_rate=RATE, **settings | changes).eval()


def model_of(front_end):
    """A model of which only the front end is asked."""
    return types.SimpleNamespace(preprocessor=front_end)


def run(front_end, pieces):
    """Features of pieces padded to the same length."""
    signal = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(piece) for piece in pieces], batch_first=True)
    return front_end(input_signal=signal, length=torch.tensor([len(piece) for piece in pieces]))


def counted(front_end):
    """The samples of each call of a front end from now on."""
    sizes, own = [], front_end.featurizer.forward

    def forward(x, seq_len, *more):
        sizes.append(int(seq_len.sum()))
        return own(x, seq_len, *more)

    front_end.featurizer.forward = forward
    return sizes


@pytest.mark.parametrize("n_fft, window, pad_to", [(512, 0.025, 0), (512, 0.025, 16), (400, 0.02, 0), (1024, 0.05, 8)])
def test_stretches_have_the_numbers_of_features_of_their_own(n_fft, window, pad_to):
    ours, theirs = (front_end(n_fft=n_fft, window_size=window, pad_to=pad) for pad in (pad_to, 16))
    assert same_features(model_of(ours), model_of(theirs))
    mel = SharedMel(model_of(ours), model_of(theirs), most=2)
    recordings = [make_audio(7.31, seed=1), make_audio(5.0, seed=2)]
    run(theirs, recordings)
    for audio in recordings:
        spans = [(0, len(audio)), (0, 20_000), (160 * 37, 160 * 37 + 16_003), (160 * 200, len(audio))]
        pieces = [audio[first:last] for first, last in spans]
        alone, lengths = run(ours, pieces)
        sizes = counted(ours)
        with mel.given(pieces, [first for first, _ in spans], len(audio)):
            shared, shared_lengths = run(ours, pieces)
        assert torch.equal(shared_lengths, lengths)
        assert_close(shared, alone, atol=2e-6, rtol=0)
        assert sum(sizes) < 6 * (8 * n_fft + 1600) < sum(map(len, pieces))
    mel.close()
    assert not theirs._forward_hooks


def test_a_whole_recording_that_is_normalized_is_shared_and_a_part_of_it_is_not():
    ours, theirs = front_end(normalize="per_feature"), front_end(normalize="per_feature")
    mel = SharedMel(model_of(ours), model_of(theirs), most=1)
    audio = make_audio(3.0)
    run(theirs, [audio])
    alone, _ = run(ours, [audio])
    sizes = counted(ours)
    with mel.given([audio], [0], len(audio)):
        shared, _ = run(ours, [audio])
    assert sizes == []
    assert_close(shared, alone, atol=2e-6, rtol=0)
    with mel.given([audio[1600:40000]], [1600], len(audio)):
        part, _ = run(ours, [audio[1600:40000]])
    assert sizes == [38400]
    assert_close(part, run(ours, [audio[1600:40000]])[0])


@pytest.mark.parametrize("change", ["other place", "louder", "other length", "between hops", "forgotten", "padded"])
def test_other_samples_have_features_of_their_own(change):
    ours, theirs = front_end(), front_end()
    mel = SharedMel(model_of(ours), model_of(theirs), most=1)
    audio = make_audio(3.0)
    run(theirs, [audio])
    first, piece, length = 1600, audio[1600:30_000], len(audio)
    if change == "other place":
        first = 3200
    elif change == "louder":
        piece = piece * np.float32(1.5)
    elif change == "other length":
        length += 1
    elif change == "between hops":
        first, piece = 1601, audio[1601:30_000]
    elif change == "forgotten":
        run(theirs, [make_audio(3.0, seed=5)])
    alone, _ = run(ours, [piece])
    sizes = counted(ours)
    with mel.given([piece], [first], length):
        heard = np.pad(piece, (0, 10)) if change == "padded" else piece
        found, _ = run(ours, [heard])
    assert sizes == [len(heard)]
    if change != "padded":
        assert torch.equal(found, alone)


@pytest.mark.parametrize(
    "changes",
    [
        {"window_stride": 0.02},
        {"window_size": 0.02},
        {"window": "hamming"},
        {"features": 80},
        {"n_fft": 1024},
        {"normalize": "per_feature"},
        {"preemph": 0.9},
        {"lowfreq": 50},
        {"mag_power": 1.0},
        {"log": False},
        {"log_zero_guard_value": 1e-5},
        {"frame_splicing": 2},
        {"exact_pad": True},
        {"pad_value": 1.0},
    ],
)
def test_any_setting_that_differs_parts_them(changes):
    ours, theirs = model_of(front_end()), model_of(front_end(**changes))
    assert not same_features(ours, theirs)
    assert same_features(ours, model_of(front_end(dither=0.0, pad_to=16)))
    with shared_mel(ours, theirs, most=1) as mel:
        assert mel is None


def test_a_model_without_such_a_front_end_shares_nothing():
    assert not same_features(types.SimpleNamespace(), model_of(front_end()))
    assert not same_features(model_of(torch.nn.Linear(1, 1)), model_of(front_end()))


@pytest.fixture(scope="module")
def recognizer():
    """NeMo's CTC model, small and untrained, of letters."""
    from nemo.collections.asr.models import EncDecCTCModel
    from omegaconf import OmegaConf

    from tests.inference.test_recognizer import ENCODER, FRONT_END, LETTERS, ctc_decoder

    torch.manual_seed(1)
    parts = {
        "sample_rate": RATE,
        "labels": LETTERS,
        "preprocessor": FRONT_END | {"features": 40, "normalize": "NA"},
        "encoder": ENCODER | {"feat_in": 40},
        "decoder": ctc_decoder(LETTERS),
    }
    return EncDecCTCModel(OmegaConf.create(parts)).eval()


@pytest.fixture(scope="module")
def hearing(tiny_model):
    """The tiny diarizer's weights behind a front end without level or normalization, as streaming models have it."""
    import copy

    from omegaconf import open_dict

    cfg = copy.deepcopy(tiny_model.cfg)
    with open_dict(cfg):
        cfg.level = "none"
        cfg.preprocessor.normalize = "NA"
        cfg.preprocessor.features = 40
        cfg.encoder.feat_in = 40
    torch.manual_seed(3)
    model = type(tiny_model)(cfg).eval()
    model.sortformer_modules.load_state_dict(tiny_model.sortformer_modules.state_dict())
    return model


@pytest.mark.parametrize("source", ["file", "samples"])
@pytest.mark.parametrize("overlap", ["shared", "masked"])
def test_one_computation_gives_the_same_transcript(recognizer, hearing, tmp_path, monkeypatch, source, overlap):
    audio = [make_audio(12.0, seed=4), make_audio(8.0, seed=7)]
    given = audio
    if source == "file":
        given = [tmp_path / f"{i}.wav" for i in range(2)]
        for path, samples in zip(given, audio, strict=True):
            soundfile.write(path, samples, RATE, subtype="FLOAT")
    options = {"sample_rate": RATE, "overlap": overlap, "batch_size": 2, "max_seconds": 3.0}
    if source == "file":
        options.pop("sample_rate")
    seen = []
    hook = recognizer.preprocessor.register_forward_hook(lambda module, args, out: seen.append(out[0].clone()))
    sizes = counted(recognizer.preprocessor)
    try:
        together = transcribe_with_speakers(given, recognizer, hearing, **options)
        once, features = sum(sizes), seen[:]
        seen.clear(), sizes.clear()
        monkeypatch.setattr(transcribe_module, "shared_mel", lambda *models, most: shared_mel(*models[:1] * 2, most=1))
        apart = transcribe_with_speakers(given, recognizer, hearing, **options)
        twice = sum(sizes)
    finally:
        hook.remove()
        del recognizer.preprocessor.featurizer.forward
    assert [one.words for one in together] == [one.words for one in apart]
    assert any(one.words for one in together)
    assert len(features) == len(seen)
    for ours, theirs in zip(features, seen, strict=True):
        assert_close(ours, theirs, atol=2e-6, rtol=0)
    assert once < 0.4 * twice if overlap == "shared" else once > 0
    assert "get_features" not in vars(recognizer.preprocessor)
