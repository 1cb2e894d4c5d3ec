# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The acoustic encoder of each kind of NeMo speech model, built and saved by NeMo, starts ours; others are refused."""

import copy

import pytest
import torch
from nemo.collections.asr import models
from nemo.collections.asr.models.ssl_models import EncDecDenoiseMaskedTokenPredModel
from nemo.utils.app_state import AppState
from omegaconf import OmegaConf
from torch.testing import assert_close

from nemo_sortformer.models.diarizer import SortformerDiarizer
from nemo_sortformer.nemo_bridge import NemoFileError, describe, load_encoder

MODULES, WIDTH = "nemo.collections.asr.modules", 32
LETTERS = list("abcd ")
FRONT_END = {
    "_target_": f"{MODULES}.AudioToMelSpectrogramPreprocessor",
    "sample_rate": 16000,
    "normalize": "per_feature",
    "window_size": 0.025,
    "window_stride": 0.01,
    "window": "hann",
    "features": 40,
    "n_fft": 512,
    "frame_splicing": 1,
    "dither": 0.00001,
    "pad_to": 0,
}
ENCODER = {
    "_target_": f"{MODULES}.ConformerEncoder",
    "feat_in": 40,
    "feat_out": -1,
    "n_layers": 2,
    "d_model": WIDTH,
    "subsampling": "dw_striding",
    "subsampling_factor": 8,
    "subsampling_conv_channels": 8,
    "causal_downsampling": False,
    "ff_expansion_factor": 2,
    "self_attention_model": "rel_pos",
    "n_heads": 4,
    "att_context_size": [-1, -1],
    "xscaling": True,
    "untie_biases": True,
    "pos_emb_max_len": 5000,
    "conv_kernel_size": 5,
    "conv_norm_type": "batch_norm",
    "conv_context_size": None,
    "dropout": 0.1,
    "dropout_pre_encoder": 0.1,
    "dropout_emb": 0.0,
    "dropout_att": 0.1,
}
BASE = {"sample_rate": 16000, "preprocessor": FRONT_END, "encoder": ENCODER, "optim": {"name": "adamw", "lr": 1e-3}}


def ctc_decoder(vocabulary):
    return {
        "_target_": f"{MODULES}.ConvASRDecoder",
        "feat_in": WIDTH,
        "num_classes": len(vocabulary) or -1,
        "vocabulary": vocabulary,
    }


def transducer(*, tdt):
    """The form of NeMo's `fastconformer_transducer_char` and `fastconformer_tdt` settings."""
    joint = {
        "_target_": f"{MODULES}.RNNTJoint",
        "log_softmax": None,
        "fuse_loss_wer": False,
        "num_classes": len(LETTERS),
        "vocabulary": LETTERS,
        "jointnet": {"joint_hidden": 8, "activation": "relu", "encoder_hidden": WIDTH, "pred_hidden": 8},
    }
    decoder = {
        "_target_": f"{MODULES}.RNNTDecoder",
        "blank_as_pad": True,
        "vocab_size": len(LETTERS),
        "prednet": {"pred_hidden": 8, "pred_rnn_layers": 1},
    }
    decoding = {"strategy": "greedy_batch", "greedy": {"max_symbols": 5}}
    loss = {"loss_name": "default"}
    if tdt:
        joint["num_extra_outputs"] = 3
        decoding |= {"model_type": "tdt", "durations": [0, 1, 2]}
        loss = {"loss_name": "tdt", "tdt_kwargs": {"durations": [0, 1, 2], "sigma": 0.02, "omega": 0.1}}
    defaults = {"enc_hidden": WIDTH, "pred_hidden": 8, "joint_hidden": 8}
    return BASE | {
        "labels": LETTERS,
        "model_defaults": defaults,
        "decoder": decoder,
        "joint": joint,
        "decoding": decoding,
        "loss": loss,
    }


def masked(position):
    """The form of NeMo's `nest_fast-conformer` settings."""
    return BASE | {
        "num_classes": 16,
        "mask_position": position,
        "spec_augment": {"_target_": f"{MODULES}.SpectrogramAugmentation", "freq_masks": 0, "time_masks": 0},
        "masking": {
            "_target_": f"{MODULES}.RandomBlockMasking",
            "feat_in": 40,
            "mask_prob": 0.01,
            "block_size": 40,
            "freeze": True,
        },
        "quantizer": {
            "_target_": f"{MODULES}.RandomProjectionVectorQuantizer",
            "feat_in": 40,
            "code_dim": 4,
            "num_books": 1,
            "num_classes": 16,
            "dist_fn": "l2",
            "freeze": True,
            "squeeze_single": False,
            "combine_time_steps": 8,
        },
        "decoder": {
            "_target_": f"{MODULES}.MultiSoftmaxDecoder",
            "feat_in": WIDTH,
            "num_classes": 16,
            "num_decoders": 1,
            "squeeze_single": False,
        },
        "loss": {
            "_target_": "nemo.collections.asr.losses.MultiMLMLoss",
            "combine_time_steps": 8,
            "mask_threshold": 0.8,
            "num_decoders": 1,
            "squeeze_single": False,
        },
    }


def canary(tokenizer, special):
    """The form of NeMo's `fast-conformer_aed` settings."""
    names = "nemo.collections.asr.modules.transformer"
    sizes = {"inner_size": 32, "num_layers": 1, "num_attention_heads": 2}
    return BASE | {
        "prompt_format": "canary",
        "model_defaults": {"asr_enc_hidden": WIDTH, "lm_enc_hidden": 16, "lm_dec_hidden": 16},
        "tokenizer": {
            "dir": None,
            "type": "agg",
            "langs": {
                "spl_tokens": {"dir": str(special), "type": "bpe"},
                "en": {"dir": str(tokenizer), "type": "bpe"},
            },
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
        "decoding": {"strategy": "beam", "beam": {"beam_size": 1, "len_pen": 0.0, "max_generation_delta": 50}},
        "loss": {
            "_target_": "nemo.collections.common.losses.smoothed_cross_entropy.SmoothedCrossEntropyLoss",
            "label_smoothing": 0.0,
        },
    }


def contrastive():
    """The form of NeMo's `conformer_ssl` settings."""
    decoder = {
        "_target_": f"{MODULES}.ConvASRDecoderReconstruction",
        "feat_in": WIDTH,
        "feat_hidden": 8,
        "feat_out": 8,
        "stride_layers": 0,
        "non_stride_layers": 0,
        "stride_transpose": False,
    }
    loss = {
        "_target_": "nemo.collections.asr.losses.ContrastiveLoss",
        "in_dim": 40,
        "proj_dim": 8,
        "combine_time_steps": 8,
        "quantized_targets": True,
        "codebook_size": 10,
        "num_groups": 2,
    }
    patches = {"_target_": f"{MODULES}.MaskedPatchAugmentation", "freq_masks": 1, "freq_width": 4, "patch_size": 8}
    return BASE | {
        "spec_augment": patches | {"mask_patches": 0.5},
        "decoder_out": 8,
        "loss_list": {"contr": {"decoder": decoder, "loss": loss}},
    }


def write_tokenizers(folder):
    """Train a sentencepiece model of a few words, and one of Canary's special tokens."""
    from sentencepiece import SentencePieceTrainer

    names = ("endoftext", "startoftranscript", "nospeech", "en", "transcribe", "pnc")
    special = ["<pad>", *(f"<|{name}|>" for name in names)]
    (folder / "text").write_text("who speaks when\nthe first to speak is the first speaker\n" * 20)
    for name, symbols in (("bpe", []), ("special", special)):
        (folder / name).mkdir()
        SentencePieceTrainer.train(
            input=str(folder / "text"),
            model_prefix=str(folder / name / "tokenizer"),
            vocab_size=24 + len(symbols),
            model_type="bpe",
            user_defined_symbols=symbols,
            minloglevel=2,
        )
        pieces = (folder / name / "tokenizer.vocab").read_text().splitlines()
        (folder / name / "vocab.txt").write_text("\n".join(line.split("\t")[0] for line in pieces))
    return folder / "bpe", folder / "special"


@pytest.fixture(scope="module")
def asr_files(tmp_path_factory):
    """One .nemo file of each kind, and the weights of its encoder, by kind."""
    folder = tmp_path_factory.mktemp("asr")
    # NeMo keeps the path of whatever this process restored last, and builds an AED model only where there is none.
    AppState().model_restore_path = None
    bpe, special = write_tokenizers(folder)
    hybrid = transducer(tdt=True) | {"aux_ctc": {"ctc_loss_weight": 0.3, "decoder": ctc_decoder(LETTERS)}}
    kinds = {
        "ctc": (models.EncDecCTCModel, BASE | {"labels": LETTERS, "decoder": ctc_decoder(LETTERS)}),
        "ctc_bpe": (
            models.EncDecCTCModelBPE,
            BASE | {"tokenizer": {"dir": str(bpe), "type": "bpe"}, "decoder": ctc_decoder([])},
        ),
        "rnnt": (models.EncDecRNNTModel, transducer(tdt=False)),
        "tdt": (models.EncDecRNNTModel, transducer(tdt=True)),
        "hybrid": (models.EncDecHybridRNNTCTCModel, hybrid),
        "aed": (models.EncDecMultiTaskModel, canary(bpe, special)),
        "ssl_contrastive": (models.SpeechEncDecSelfSupervisedModel, contrastive()),
        "ssl_masked": (EncDecDenoiseMaskedTokenPredModel, masked("pre_conv")),
        "ssl_masked_behind_subsampling": (EncDecDenoiseMaskedTokenPredModel, masked("post_conv")),
    }
    files = {}
    for kind, (model_class, cfg) in kinds.items():
        model = model_class(cfg=OmegaConf.create(copy.deepcopy(cfg)))
        with torch.no_grad():
            for parameter in model.encoder.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        path = folder / f"{kind}.nemo"
        model.save_to(str(path))
        files[kind] = path, {name: tensor.clone() for name, tensor in model.encoder.state_dict().items()}
    return files


KINDS = {
    "ctc": "CTC speech recognizer",
    "ctc_bpe": "CTC speech recognizer",
    "rnnt": "RNN-T speech recognizer",
    "tdt": "TDT speech recognizer",
    "hybrid": "hybrid TDT and CTC speech recognizer",
    "aed": "attention (AED, Canary) speech recognizer",
    "ssl_contrastive": "self-supervised speech encoder",
    "ssl_masked": "self-supervised speech encoder",
    "ssl_masked_behind_subsampling": "self-supervised speech encoder",
}


@pytest.fixture
def diarizer(our_cfg):
    """Make our model with the encoder of the files, changed by the arguments."""

    def make(front_end=None, **encoder):
        return SortformerDiarizer(
            cfg=our_cfg(
                preprocessor=FRONT_END | (front_end or {}), encoder=ENCODER | {"use_pytorch_sdpa": True} | encoder
            )
        )

    return make


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_encoder_of_each_kind_starts_ours_and_gives_its_numbers(asr_files, diarizer, kind):
    path, weights = asr_files[kind]
    model = diarizer()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.maybe_init_from_pretrained_checkpoint(OmegaConf.create({"init_from_nemo_model": str(path)}))
    after = model.state_dict()
    for name, tensor in after.items():
        inside = name.removeprefix("encoder.")
        wrapped = inside.replace("pre_encode.", "pre_encode.pre_encode.", 1)
        expected = before[name] if inside == name else weights.get(inside, weights.get(wrapped))
        assert_close(tensor, expected, rtol=0, atol=0)
    assert not torch.equal(before["encoder.layers.0.norm_out.weight"], after["encoder.layers.0.norm_out.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_each_kind_is_described(asr_files, kind):
    path, weights = asr_files[kind]
    found = describe(path)
    assert found.kind == KINDS[kind]
    assert not found.problems
    assert found.sample_rate == 16000
    assert found.frame_seconds == 0.08
    assert found.parameters["encoder"] == sum(tensor.numel() for tensor in weights.values())
    assert found.abilities["init_encoder"].possible
    assert not found.abilities["diarize"].possible
    assert found.abilities["transcribe"].possible == found.kind.endswith("recognizer")
    tokens = {"ctc": 5, "rnnt": 5, "tdt": 5, "hybrid": 5, "ctc_bpe": 24}
    if kind in tokens:
        assert found.tokenizer["tokens"] == tokens[kind]
    if kind == "aed":
        assert found.tokenizer["languages"] == ["en", "spl_tokens"]


@pytest.mark.slow
def test_a_part_is_taken_by_name_with_the_same_checks(asr_files, diarizer):
    path, weights = asr_files["aed"]
    source = {"init_from_nemo_model": {"canary": {"path": str(path), "include": ["encoder."]}}}
    model = diarizer()
    model.maybe_init_from_pretrained_checkpoint(OmegaConf.create(source))
    assert_close(model.encoder.state_dict(), weights, rtol=0, atol=0)
    with pytest.raises(NemoFileError, match="`preprocessor.normalize`"):
        diarizer(front_end={"normalize": "NA"}).maybe_init_from_pretrained_checkpoint(OmegaConf.create(source))


@pytest.mark.slow
@pytest.mark.parametrize(
    "front_end, encoder, message",
    [
        ({"features": 80}, {"feat_in": 80}, "`preprocessor.features` is 40 there and 80 here"),
        ({"window": "hamming"}, {}, "`preprocessor.window` is 'hann' there and 'hamming' here"),
        ({"preemph": None}, {}, "`preprocessor.preemph` is 0.97 there and None here"),
        ({}, {"n_heads": 2}, "`encoder.n_heads` is 4 there and 2 here"),
        ({}, {"xscaling": False}, "`encoder.xscaling` is True there and False here"),
        ({}, {"conv_context_size": "causal"}, r"`encoder.conv_context_size` is \[2, 2\] there and 'causal' here"),
        ({}, {"n_layers": 1}, "`encoder.n_layers` is 2 there and 1 here"),
    ],
)
def test_what_would_change_the_numbers_silently_is_refused(asr_files, diarizer, front_end, encoder, message):
    model = diarizer(front_end, **encoder)
    before = copy.deepcopy(model.encoder.state_dict())
    with pytest.raises(NemoFileError, match=message):
        model.maybe_init_from_nemo_encoder(str(asr_files["ctc"][0]))
    assert_close(model.encoder.state_dict(), before, rtol=0, atol=0)


@pytest.mark.slow
def test_another_reach_of_the_attention_is_noted(asr_files, diarizer):
    report = diarizer(att_context_size=[16, 16]).maybe_init_from_nemo_encoder(str(asr_files["rnnt"][0]))
    assert "`encoder.att_context_size` [-1, -1], here it is [16, 16]" in str(report)


@pytest.mark.slow
def test_a_default_that_is_left_out_is_no_difference(asr_files, diarizer):
    model = diarizer()
    cfg = {"preprocessor": dict(FRONT_END), "encoder": dict(ENCODER)}
    for name in ("window", "pad_to", "normalize", "frame_splicing"):
        del cfg["preprocessor"][name]
    for name in ("xscaling", "conv_norm_type", "att_context_size", "self_attention_model"):
        del cfg["encoder"][name]
    assert load_encoder(model, cfg, asr_files["ctc"][0]).loaded
    del cfg["preprocessor"]["features"]  # 64
    with pytest.raises(NemoFileError, match="`preprocessor.features` is 40 there and 64 here"):
        load_encoder(model, cfg, asr_files["ctc"][0])
