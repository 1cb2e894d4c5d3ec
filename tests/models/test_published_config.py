# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The published size is NVIDIA's: the same parts, names, shapes and numbers as NeMo's own model."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch.testing import assert_close

from nemo_sortformer.models.diarizer import SortformerDiarizer

CONFIG = Path(__file__).parents[2] / "configs" / "diarizer_published.yaml"
NEMO = "nemo.collections.asr.modules"


def nemo_settings(cfg):
    """The settings of NeMo's `SortformerEncLabelModel` that name the same sizes."""
    widths = {"fc_d_model": cfg.encoder.d_model, "tf_d_model": cfg.transformer_encoder.hidden_size}
    front_end = SortformerDiarizer(cfg=OmegaConf.merge(cfg, {"encoder": {"n_layers": 1}})).config.preprocessor
    transformer = {"_target_": f"{NEMO}.transformer.transformer_encoders.TransformerEncoder"}
    head = {"_target_": f"{NEMO}.sortformer_modules.SortformerModules", "num_spks": cfg.max_num_of_spks}
    return OmegaConf.create(
        {
            "sample_rate": cfg.sample_rate,
            "max_num_of_spks": cfg.max_num_of_spks,
            "session_len_sec": 90,
            **dict.fromkeys(("pil_weight", "ats_weight"), 0.5),
            **widths,
            "model_defaults": widths,
            "preprocessor": front_end,
            "encoder": cfg.encoder,
            "transformer_encoder": {**cfg.transformer_encoder, **transformer},
            "sortformer_modules": {**cfg.sortformer_modules, **head, **widths},
            "loss": {"_target_": "nemo.collections.asr.losses.bce_loss.BCELoss", "weight": None, "reduction": "mean"},
            "lr": 1e-4,
            "optim": {"name": "adamw", "lr": 1e-4},
        }
    )


@pytest.mark.slow
def test_the_published_size_is_nvidias():
    cfg = OmegaConf.load(CONFIG).model
    for name in ("train_ds", "validation_ds", "test_ds"):
        cfg.pop(name)
    from nemo.collections.asr.models import SortformerEncLabelModel

    ours = SortformerDiarizer(cfg=cfg).eval()
    assert sum(p.numel() for p in ours.parameters()) / 1e6 == pytest.approx(123.2, abs=0.1)
    theirs = SortformerEncLabelModel(cfg=nemo_settings(cfg)).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)  # the same names and shapes
    audio, lengths = 0.1 * torch.randn(1, 64000), torch.tensor([64000])
    with torch.no_grad():
        expected = theirs(audio_signal=audio, audio_signal_length=lengths)
        assert_close(ours(audio, lengths).probs[:, : expected.shape[1]], expected, rtol=0, atol=1e-5)
