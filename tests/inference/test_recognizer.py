# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Each class of NeMo's speech recognizers, built small by NeMo, saved, restored and asked by our path."""

import copy
import warnings

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from nemo_sortformer.config.merge import ConfigError
from nemo_sortformer.data.segment import Segment
from nemo_sortformer.inference.recognizer import TranscriptWarning, load_asr, recognize
from nemo_sortformer.inference.results import Diarization
from nemo_sortformer.inference.transcribe import TranscribeOptions, load_pair, transcribe_recording

MODULES, WIDTH, RATE = "nemo.collections.asr.modules", 16, 16_000
LETTERS = list("abcd ")
FRONT_END = {
    "_target_": f"{MODULES}.AudioToMelSpectrogramPreprocessor",
    "sample_rate": RATE,
    "normalize": "per_feature",
    "window_size": 0.025,
    "window_stride": 0.01,
    "features": 20,
    "n_fft": 512,
    "pad_to": 0,
}
ENCODER = {
    "_target_": f"{MODULES}.ConformerEncoder",
    "feat_in": 20,
    "n_layers": 1,
    "d_model": WIDTH,
    "subsampling": "dw_striding",
    "subsampling_factor": 8,
    "subsampling_conv_channels": 4,
    "ff_expansion_factor": 1,
    "n_heads": 2,
    "conv_kernel_size": 3,
}
CANARY = {"source_lang": "en", "target_lang": "en", "task": "asr", "pnc": "yes"}


def ctc_decoder(vocabulary):
    return {
        "_target_": f"{MODULES}.ConvASRDecoder",
        "feat_in": WIDTH,
        "num_classes": len(vocabulary) or -1,
        "vocabulary": vocabulary,
    }


def transducer(*, tdt):
    joint = {
        "_target_": f"{MODULES}.RNNTJoint",
        "log_softmax": None,
        "fuse_loss_wer": False,
        "jointnet": {"joint_hidden": 8, "activation": "relu"},
    }
    decoding = {"strategy": "greedy_batch", "greedy": {"max_symbols": 3}}
    loss = {"loss_name": "default"}
    if tdt:
        joint["num_extra_outputs"] = 3
        decoding |= {"model_type": "tdt", "durations": [0, 1, 2]}
        loss = {"loss_name": "tdt", "tdt_kwargs": {"durations": [0, 1, 2], "sigma": 0.02, "omega": 0.1}}
    return {
        "model_defaults": {"enc_hidden": WIDTH, "pred_hidden": 8, "joint_hidden": 8},
        "decoder": {
            "_target_": f"{MODULES}.RNNTDecoder",
            "blank_as_pad": True,
            "prednet": {"pred_hidden": 8, "pred_rnn_layers": 1},
        },
        "joint": joint,
        "decoding": decoding,
        "loss": loss,
    }


def canary(tokenizer, special):
    names = "nemo.collections.asr.modules.transformer"
    sizes = {"inner_size": 16, "num_layers": 1, "num_attention_heads": 2}
    return {
        "prompt_format": "canary",
        "model_defaults": {"asr_enc_hidden": WIDTH, "lm_enc_hidden": 16, "lm_dec_hidden": 16},
        "tokenizer": {
            "dir": None,
            "type": "agg",
            "langs": {"spl_tokens": {"dir": special, "type": "bpe"}, "en": {"dir": tokenizer, "type": "bpe"}},
            "custom_tokenizer": {
                "_target_": "nemo.collections.common.tokenizers.canary_tokenizer.CanaryTokenizer",
                "tokenizers": None,
            },
        },
        "transf_encoder": {
            "_target_": f"{names}.transformer_encoders.TransformerEncoder",
            "hidden_size": 16,
            "mask_future": False,
            **sizes,
        },
        "transf_decoder": {
            "_target_": f"{names}.get_nemo_transformer",
            "model_name": None,
            "pretrained": False,
            "encoder": None,
            "pre_ln_final_layer_norm": True,
            "config_dict": {
                "hidden_size": 16,
                "max_sequence_length": 64,
                "learn_positional_encodings": False,
                **sizes,
            },
        },
        "head": {
            "_target_": "nemo.collections.asr.parts.submodules.token_classifier.TokenClassifier",
            "num_layers": 1,
            "activation": "relu",
            "log_softmax": True,
            "hidden_size": 16,
        },
        "decoding": {"strategy": "beam", "beam": {"beam_size": 1, "len_pen": 0.0, "max_generation_delta": 10}},
        "loss": {
            "_target_": "nemo.collections.common.losses.smoothed_cross_entropy.SmoothedCrossEntropyLoss",
            "label_smoothing": 0.0,
        },
    }


def write_tokenizer(folder, name, symbols=()):
    """Train a SentencePiece model of a few words, with some symbols of their own."""
    from sentencepiece import SentencePieceTrainer

    (folder / name).mkdir()
    (folder / "text").write_text("who speaks when\nthe first to speak is the first speaker\n" * 20)
    SentencePieceTrainer.train(
        input=str(folder / "text"),
        model_prefix=str(folder / name / "tokenizer"),
        vocab_size=24 + len(symbols),
        model_type="bpe",
        user_defined_symbols=list(symbols),
        minloglevel=2,
    )
    pieces = (folder / name / "tokenizer.vocab").read_text().splitlines()
    (folder / name / "vocab.txt").write_text("\n".join(line.split("\t")[0] for line in pieces))
    return str(folder / name)


@pytest.fixture(scope="module")
def asr_files(tmp_path_factory):
    """One .nemo file of each kind, with random weights."""
    from nemo.collections.asr import models
    from nemo.utils.app_state import AppState

    folder = tmp_path_factory.mktemp("asr")
    tokens = ("endoftext", "startoftranscript", "nospeech", "en", "transcribe", "pnc")
    bpe = write_tokenizer(folder, "bpe")
    special = write_tokenizer(folder, "special", ["<pad>", *(f"<|{name}|>" for name in tokens)])
    text = {"tokenizer": {"dir": bpe, "type": "bpe"}}
    auxiliary = {"ctc_loss_weight": 0.3, "decoder": ctc_decoder([]), "decoding": {"strategy": "greedy"}}
    kinds = {
        "ctc": (models.EncDecCTCModel, {"labels": LETTERS, "decoder": ctc_decoder(LETTERS)}),
        "ctc_bpe": (models.EncDecCTCModelBPE, text | {"decoder": ctc_decoder([])}),
        "rnnt": (models.EncDecRNNTBPEModel, text | transducer(tdt=False)),
        "tdt": (models.EncDecRNNTBPEModel, text | transducer(tdt=True)),
        "hybrid": (models.EncDecHybridRNNTCTCBPEModel, text | transducer(tdt=True) | {"aux_ctc": auxiliary}),
        "aed": (models.EncDecMultiTaskModel, canary(bpe, special)),
    }
    files = {}
    for kind, (model_class, cfg) in kinds.items():
        AppState().model_restore_path = None  # NeMo builds an AED model only where none was restored
        torch.manual_seed(1)
        base = {"sample_rate": RATE, "preprocessor": FRONT_END, "encoder": ENCODER}
        model = model_class(cfg=OmegaConf.create(copy.deepcopy(base | cfg)))
        files[kind] = folder / f"{kind}.nemo"
        model.save_to(str(files[kind]))
    return files


def noise(seconds, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ctc", "ctc_bpe", "rnnt", "tdt", "hybrid", "hybrid_ctc", "aed"])
def test_each_class_gives_words_with_times_or_says_that_it_has_none(asr_files, kind):
    model = load_asr(asr_files[kind.removesuffix("_ctc")], device="cpu")
    if kind == "hybrid_ctc":
        model.change_decoding_strategy(decoder_type="ctc")
    before = copy.deepcopy(model.cfg.decoding), model.preprocessor.featurizer.dither, model.training
    options = CANARY if kind == "aed" else None
    pieces = [noise(2.0), noise(0.3, 1), noise(1.2, 2)]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        heard = recognize(model, pieces, batch_size=2, options=options)
    untimed = [w for w in said if issubclass(w.category, TranscriptWarning)]
    assert bool(untimed) == (kind == "aed")
    assert len(heard) == 3
    for one, piece in zip(heard, pieces, strict=True):
        if one.words is not None:
            assert [word for w in one.words for word in w.text.split()] == one.text.split()
            assert all(0 <= w.start < w.end <= len(piece) / RATE + 1e-9 for w in one.words)
    assert (model.cfg.decoding, model.preprocessor.featurizer.dither, model.training) == before
    assert all(parameter.requires_grad for parameter in model.encoder.parameters())
    if kind != "aed":  # how long an untrained decoder goes on is bounded by the longest piece of its batch
        assert [recognize(model, [piece])[0].text for piece in pieces] == [one.text for one in heard]
    who = Diarization(
        recording="r", segments=(Segment(0.2, 1.0, "speaker_0"), Segment(1.1, 1.9, "speaker_1")), duration=2.0
    )
    for overlap in ("shared", "masked"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TranscriptWarning)
            found = transcribe_recording(
                model, pieces[0], who, TranscribeOptions(overlap=overlap, asr_options=options or {})
            )
        assert {word.speaker for word in found.words} <= {"speaker_0", "speaker_1"}


@pytest.mark.slow
def test_what_a_model_needs_and_is_not_given_is_named(asr_files):
    model = load_asr(asr_files["aed"], device="cpu")
    with pytest.raises(ConfigError, match="source_lang.*`asr_options`"):
        recognize(model, [noise(1.0)])


@pytest.mark.slow
def test_a_file_of_another_kind_or_no_file_of_nemo_is_refused(asr_files, tiny_model, tmp_path):
    path = tmp_path / "diarizer.nemo"
    tiny_model.save_to(str(path))
    with pytest.raises(ConfigError, match="`asr` must be a speech recognizer, but .* is a Sortformer diarizer"):
        load_asr(path)
    (tmp_path / "text.nemo").write_text("no archive")
    with pytest.raises(ValueError, match="is no .nemo file"):
        load_asr(tmp_path / "text.nemo")
    with pytest.raises(ValueError, match="`asr` must be a .nemo file, but .* is missing"):
        load_asr(tmp_path / "missing.nemo")
    cut = tmp_path / "cut.nemo"
    cut.write_bytes(asr_files["ctc"].read_bytes()[:9000])
    with pytest.raises(ValueError, match="cut.nemo"):
        load_asr(cut)
    with pytest.raises(ConfigError, match="`asr` is missing"):
        load_pair(None, path)
    with pytest.raises(ValueError, match="EncDecCTCModel"):
        load_pair(asr_files["ctc"], asr_files["ctc"])
