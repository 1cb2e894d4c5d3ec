# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Small models, and small recordings with RTTM files, made on the spot."""

import json

import numpy as np
import pytest
import soundfile
import torch
from omegaconf import OmegaConf

FRONT_END = {
    "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
    "normalize": "per_feature",
    "window_size": 0.025,
    "sample_rate": 16000,
    "window_stride": 0.01,
    "window": "hann",
    "features": 40,
    "n_fft": 512,
    "frame_splicing": 1,
    "dither": 0.0,
}


def conformer(**changes):
    """A FastConformer of two small layers; batch statistics and dropout off, so that runs can be compared."""
    return {
        "_target_": "nemo.collections.asr.modules.ConformerEncoder",
        "feat_in": 40,
        "feat_out": -1,
        "n_layers": 2,
        "d_model": 32,
        "subsampling": "dw_striding",
        "subsampling_factor": 8,
        "subsampling_conv_channels": 8,
        "ff_expansion_factor": 2,
        "self_attention_model": "rel_pos",
        "n_heads": 4,
        "att_context_size": [-1, -1],
        "conv_kernel_size": 5,
        "conv_norm_type": "layer_norm",
        "dropout": 0.0,
        "dropout_pre_encoder": 0.0,
        "dropout_emb": 0.0,
        "dropout_att": 0.0,
        **changes,
    }


@pytest.fixture
def our_cfg():
    """Make settings of our small model; keyword arguments replace or add keys under `model:`."""

    def make(**changes):
        return OmegaConf.create(
            {
                "max_num_of_spks": 3,
                "preprocessor": dict(FRONT_END),
                "encoder": conformer(),
                "sortformer_modules": {"dropout_rate": 0.0},
                "transformer_encoder": {
                    "_target_": "nemo_sortformer.modules.SortformerEncoder",
                    "num_layers": 2,
                    "hidden_size": 16,
                    "inner_size": 32,
                    "num_attention_heads": 2,
                    "conv_kernel": 5,
                    "dropout": 0.0,
                },
                "loss": {"layer_weight": 0.2},
                "optim": {"name": "adamw", "lr": 1e-3},
                **changes,
            }
        )

    return make


@pytest.fixture
def nemo_cfg():
    """Make settings of NeMo's `SortformerEncLabelModel`, as the published YAML has them, but small."""

    def make(*, width=32, hidden=16, **changes):
        return OmegaConf.create(
            {
                "sample_rate": 16000,
                "pil_weight": 0.25,
                "ats_weight": 0.25,
                "num_workers": 0,
                "fc_d_model": width,
                "tf_d_model": hidden,
                "max_num_of_spks": 4,
                "session_len_sec": 90,
                "model_defaults": {"fc_d_model": width, "tf_d_model": hidden},
                "preprocessor": dict(FRONT_END) | {"dither": 0.00001},
                "encoder": conformer(d_model=width, conv_norm_type="batch_norm", dropout=0.1, dropout_att=0.1),
                "sortformer_modules": {
                    "_target_": "nemo.collections.asr.modules.sortformer_modules.SortformerModules",
                    "num_spks": 4,
                    "dropout_rate": 0.5,
                    "fc_d_model": width,
                    "tf_d_model": hidden,
                },
                "transformer_encoder": {
                    "_target_": "nemo.collections.asr.modules.transformer.transformer_encoders.TransformerEncoder",
                    "num_layers": 2,
                    "hidden_size": hidden,
                    "inner_size": 32,
                    "num_attention_heads": 4,
                    "attn_score_dropout": 0.5,
                    "attn_layer_dropout": 0.5,
                    "ffn_dropout": 0.5,
                    "hidden_act": "relu",
                    "pre_ln": False,
                    "pre_ln_final_layer_norm": True,
                },
                "loss": {
                    "_target_": "nemo.collections.asr.losses.bce_loss.BCELoss",
                    "weight": None,
                    "reduction": "mean",
                },
                "lr": 0.0001,
                "optim": {"name": "adamw", "lr": 1e-4},
                "train_ds": {
                    "manifest_filepath": None,
                    "sample_rate": 16000,
                    "num_spks": 4,
                    "session_len_sec": -1,
                    "soft_label_thres": 0.5,
                    "soft_targets": False,
                    "labels": None,
                    "batch_size": 4,
                    "shuffle": True,
                    "num_workers": 0,
                    "validation_mode": False,
                    "use_lhotse": False,
                    "use_bucketing": True,
                },
                **changes,
            }
        )

    return make


@pytest.fixture
def tone_manifest(tmp_path):
    """Write recordings in which each speaker is a tone in noise, with RTTM files; give the manifest's path."""

    def make(seconds, *, name="tones", speakers=2):
        lines = []
        for number, duration in enumerate(seconds):
            rng = np.random.default_rng(1000 + number)
            audio = 0.01 * rng.standard_normal(round(duration * 16000))
            start, rttm = 0.24, []
            while start < duration - 0.5:
                length = min(0.8 + 0.4 * rng.random(), duration - start)
                speaker = len(rttm) % speakers
                begin, end = round(start * 16000), round((start + length) * 16000)
                audio[begin:end] += 0.2 * np.sin(2 * np.pi * (170 + 90 * speaker) * np.arange(end - begin) / 16000)
                rttm.append(f"SPEAKER {name}_{number} 1 {start:.3f} {length:.3f} <NA> <NA> s{speaker} <NA> <NA>\n")
                start += length * 0.9
            stem = tmp_path / f"{name}_{number}"
            soundfile.write(f"{stem}.wav", audio, 16000)
            stem.with_suffix(".rttm").write_text("".join(rttm))
            entry = {"audio_filepath": f"{stem}.wav", "offset": 0.0, "duration": duration}
            lines.append(json.dumps(entry | {"rttm_filepath": f"{stem}.rttm"}) + "\n")
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(lines))
        return str(path)

    return make


@pytest.fixture
def noise_batch():
    """Three recordings of 1.3 to 2.9 s, of very different levels, zero-padded: audio, lengths."""
    generator = torch.Generator().manual_seed(7)
    lengths = torch.tensor([46400, 20801, 30000])
    audio = torch.randn(3, 46400, generator=generator) * torch.tensor([[0.3], [0.001], [0.05]])
    return audio * (torch.arange(46400) < lengths[:, None]), lengths


@pytest.fixture
def labeler_cfg():
    """Make settings of a small labeler of 6 numbers per frame; keyword arguments replace keys under `model:`."""

    def make(**changes):
        slots = {} if "heads" in changes else {"max_num_of_classes": 3}
        encoder = {
            "_target_": "nemo_sortformer.modules.SortformerEncoder",
            "num_layers": 2,
            "hidden_size": 8,
            "inner_size": 16,
            "num_attention_heads": 2,
            "conv_kernel": 3,
            "dropout": 0.0,
        }
        optim = {"name": "adamw", "lr": 1e-3}
        return OmegaConf.create({"input_dim": 6, "encoder": encoder, "optim": optim} | slots | changes)

    return make


@pytest.fixture(scope="session")
def word_tokenizer(tmp_path_factory):
    """NeMo's settings of a tokenizer of the five words of :mod:`tests.models.joint_sessions`."""
    from tests.models.joint_sessions import make_tokenizer

    return {"type": "bpe", "dir": make_tokenizer(tmp_path_factory.mktemp("tokenizer"))}


@pytest.fixture
def joint_cfg(our_cfg, word_tokenizer):
    """Make settings of a small joint model with a head of each kind; keyword arguments replace keys under `model:`."""

    def make(**changes):
        small = {"num_layers": 1, "num_attention_heads": 2, "dropout": 0.0}
        text = {
            "streams": {"kind": "ctc_streams", "decoder": small | {"upsample": 2, "conv_kernel": 3}},
            "words": {"kind": "aed", "decoder": small, "weight": 0.5},
            "plain": {"kind": "ctc", "reads": "acoustic", "decoder": {"dropout": 0.0}},
            "moved": {"kind": "rnnt", "decoder": {"pred_hidden": 8, "joint_hidden": 8, "dropout": 0.0}},
        }
        text = {name: head | {"tokenizer": word_tokenizer} for name, head in text.items()}
        loss = {"sort_weight": 1.0, "pil_weight": 0.0, "layer_weight": 0.2}
        return our_cfg(**({"loss": loss, "text": text} | changes))

    return make
