# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The modules as `_target_` in a YAML of NeMo's own: its `SortformerEncLabelModel` trains and infers with them."""

import pytest
import torch
from nemo.collections.asr.models import SortformerEncLabelModel
from nemo.core.classes import Serialization, common
from omegaconf import OmegaConf
from torch.testing import assert_close

from nemo_sortformer import modules

NEMO = "nemo.collections.asr.modules"
CONFIG = f"""
sample_rate: 16000
pil_weight: 0.5
ats_weight: 0.5
max_num_of_spks: 4
model_defaults: {{fc_d_model: 32, tf_d_model: 24}}
preprocessor: {{_target_: {NEMO}.AudioToMelSpectrogramPreprocessor, sample_rate: 16000, features: 16, dither: 0.0}}
sortformer_modules:
  _target_: {NEMO}.sortformer_modules.SortformerModules
  num_spks: 4
  fc_d_model: 32
  tf_d_model: 24
encoder: {{_target_: {NEMO}.ConformerEncoder, feat_in: 16, feat_out: -1, n_layers: 1, d_model: 32, n_heads: 2,
  subsampling: dw_striding, subsampling_factor: 8, subsampling_conv_channels: 8, conv_kernel_size: 9}}
transformer_encoder:
  _target_: {NEMO}.transformer.transformer_encoders.TransformerEncoder
  num_layers: 2
  hidden_size: 24
  inner_size: 48
  num_attention_heads: 3
  attn_score_dropout: 0.1
  attn_layer_dropout: 0.1
  ffn_dropout: 0.1
  hidden_act: relu
  pre_ln: true
  pre_ln_final_layer_norm: true
loss: {{_target_: nemo.collections.asr.losses.bce_loss.BCELoss, weight: null, reduction: mean}}
"""


@pytest.fixture
def our_targets_allowed(monkeypatch):
    """NeMo refuses classes of other packages unless their prefix is on its list."""
    monkeypatch.setattr(common, "ALLOWED_TARGET_PREFIXES", [*common.ALLOWED_TARGET_PREFIXES, "nemo_sortformer."])


def nemo_model(target=None):
    config = OmegaConf.create(CONFIG)
    if target is not None:
        config.transformer_encoder["_target_"] = target
    torch.manual_seed(0)
    return SortformerEncLabelModel(cfg=config).eval()


AUDIO, LENGTHS = torch.randn(2, 32_000, generator=torch.Generator().manual_seed(0)), torch.tensor([32_000, 20_000])


@pytest.mark.parametrize("name", ["SortformerEncoder", "TransformerStateEncoder"])
def test_nemos_own_model_trains_and_infers_with_our_state_encoder(name, our_targets_allowed):
    model = nemo_model(f"nemo_sortformer.modules.{name}")
    assert type(model.transformer_encoder) is getattr(modules, name)
    with torch.no_grad():
        probs = model(audio_signal=AUDIO, audio_signal_length=LENGTHS)
    assert probs.shape == (2, 25, 4)
    assert (probs[0] > 0).all()
    assert (probs[1, 16:] == 0).all()
    model.train()(audio_signal=AUDIO, audio_signal_length=LENGTHS).sum().backward()
    assert all(parameter.grad is not None for parameter in model.transformer_encoder.parameters())


def test_nemos_own_model_gives_the_same_answer_with_our_transformer(our_targets_allowed):
    theirs, ours = nemo_model(), nemo_model("nemo_sortformer.modules.TransformerStateEncoder")
    ours.load_state_dict(theirs.state_dict(), strict=True)
    with torch.no_grad():
        expected, output = (model(audio_signal=AUDIO, audio_signal_length=LENGTHS) for model in (theirs, ours))
    assert_close(output, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "config",
    [
        {"_target_": "nemo_sortformer.modules.SpeakerHead", "num_spks": 3, "fc_d_model": 32, "tf_d_model": 16},
        {"_target_": "nemo_sortformer.modules.AffinityHead", "d_model": 32, "dim": 8},
        {"_target_": "nemo_sortformer.modules.PermutationEncoding", "num_labels": 4, "hidden_size": 8},
        {"_target_": "nemo_sortformer.modules.SortformerEncoder", "num_layers": 1, "hidden_size": 8, "inner_size": 8},
    ],
)
def test_every_module_can_be_a_target(config, our_targets_allowed):
    name = config["_target_"].rpartition(".")[2]
    assert type(Serialization.from_config_dict(OmegaConf.create(config))) is getattr(modules, name)
