# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""A small diarizer, a batch and a loss, by which split_tensors.py compares."""

import torch
from omegaconf import OmegaConf
from torch.nn import functional as F

from nemo_sortformer.models.diarizer import SortformerDiarizer

SORTFORMER = {
    "_target_": "nemo_sortformer.modules.SortformerEncoder",
    "num_layers": 2,
    "hidden_size": 16,
    "inner_size": 32,
    "num_attention_heads": 4,
    "conv_kernel": 5,
    "dropout": 0.0,
}
TRANSFORMER = {
    "_target_": "nemo_sortformer.modules.TransformerStateEncoder",
    "num_layers": 2,
    "hidden_size": 16,
    "inner_size": 32,
    "num_attention_heads": 4,
}


def build(state_encoder=None, dropout=0.0, **conformer):
    """A small diarizer whose parameters are away from the values at which a wrong split would not show."""
    torch.manual_seed(0)
    encoder = {
        "_target_": "nemo.collections.asr.modules.ConformerEncoder",
        "feat_in": 20,
        "n_layers": 2,
        "d_model": 32,
        "subsampling": "dw_striding",
        "subsampling_factor": 4,
        "subsampling_conv_channels": 8,
        "ff_expansion_factor": 2,
        "n_heads": 4,
        "conv_kernel_size": 5,
        "conv_norm_type": "layer_norm",
        "dropout": dropout,
        "dropout_pre_encoder": dropout,
        "dropout_emb": 0.0,
        "dropout_att": dropout,
        "use_pytorch_sdpa": True,
        "sync_max_audio_length": False,
        **conformer,
    }
    if dropout:
        state_encoder = state_encoder | {
            "attn_score_dropout": dropout,
            "attn_layer_dropout": dropout,
            "ffn_dropout": dropout,
        }
        if "Sortformer" in state_encoder["_target_"]:
            state_encoder["dropout"] = dropout
    model = SortformerDiarizer(
        OmegaConf.create(
            {
                "max_num_of_spks": 3,
                "preprocessor": {"features": 20},
                "encoder": encoder,
                "transformer_encoder": state_encoder or SORTFORMER,
                "sortformer_modules": {"dropout_rate": dropout},
                "affinity": {"dim": 8},
            }
        )
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("bias", "pos_bias_u", "pos_bias_v")):
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.train()


def make_batch(frames=58):
    """Four recordings of features, two of each length, with labels: frames of the encoder are odd in number."""
    generator = torch.Generator().manual_seed(1)
    mel = torch.randn(4, 20, frames, generator=generator)
    lengths = torch.tensor([frames, frames - 13, frames, frames - 13])
    labels = (torch.rand(4, (frames + 3) // 4, 3, generator=generator) > 0.6).float()
    return mel, lengths, labels


def loss_of(model, mel, lengths, labels):
    """All outputs count, those of the layers too."""
    output = model.forward_features(mel, lengths)
    labels = labels[:, : output.logits.shape[1]]
    total = model.loss.total(model.loss.parts(output.logits, labels, output.lengths))
    for logits in output.layer_logits:
        total = total + 0.3 * F.binary_cross_entropy_with_logits(logits, labels)
    return total + 0.1 * (output.embeddings[..., 0] - labels.mean(-1)).square().mean()
