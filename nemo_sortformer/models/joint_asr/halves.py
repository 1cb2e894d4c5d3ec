# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The halves of a joint model as files of their own: a diarizer, and a speech recognizer of NeMo."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from nemo.core.classes import ModelPT
from omegaconf import OmegaConf

from nemo_sortformer.config import ConfigError
from nemo_sortformer.models.diarizer.model import SortformerDiarizer
from nemo_sortformer.models.joint_asr import build
from nemo_sortformer.models.joint_asr.nemo_decoders import rows_by_token, text_rows, write_tokenizer

if TYPE_CHECKING:
    from nemo_sortformer.models.joint_asr.model import SortformerJointASR

_DECODING = {"strategy": "greedy_batch", "greedy": {"max_symbols": 10, "use_cuda_graph_decoder": False}}


def diarizer_half(model: SortformerJointASR) -> SortformerDiarizer:
    """A diarizer with the weights of a joint model; it gives the same probabilities."""
    settings: dict[str, Any] = dict(OmegaConf.to_container(model.cfg, resolve=True))  # type: ignore[arg-type]
    half = SortformerDiarizer(cfg=OmegaConf.create(build.diarizer_settings(settings)))
    weights = model.state_dict()
    half.load_state_dict({name: weights[name].cpu() for name in half.state_dict()})
    return half.eval()


def nemo_asr_half(model: SortformerJointASR, name: str, folder: Path) -> ModelPT:
    """NeMo's `EncDecCTCModelBPE` or `EncDecRNNTBPEModel` with the weights of a joint model.

    The tokens of speakers are not among NeMo's: their rows are left out, and what is said is without them. The
    probabilities of the others are those of the joint model, divided by their sum.

    Args:
        model: the joint model.
        name: of the text head.
        folder: where the tokenizer's files can stay until the result is saved.

    Raises:
        ConfigError: NeMo has no class of this architecture; the message says why.
    """
    config, head = model.config, model.config.heads[name]
    _check_nemo_form(model, name)
    pieces = write_tokenizer(model.tokenizers[name], folder)
    width = int(model.encoder.d_model)
    settings: dict[str, Any] = {
        "sample_rate": config.sample_rate,
        "preprocessor": config.preprocessor,
        "encoder": config.encoder,
        "tokenizer": {"dir": str(folder), "type": "bpe"},
        "model_defaults": {"enc_hidden": width},
    }
    head_weights = model.text_heads[name].state_dict()
    if head.kind == "ctc":
        from nemo.collections.asr.models import EncDecCTCModelBPE as NemoModel

        settings["decoder"] = {
            "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
            "feat_in": width,
            "num_classes": len(pieces),
            "vocabulary": pieces,
        }
    else:
        from nemo.collections.asr.models import EncDecRNNTBPEModel as NemoModel

        decoder = model.text_heads[name].decoder
        joint = model.text_heads[name].joint
        prednet = {"pred_hidden": decoder.pred_hidden, "pred_rnn_layers": decoder.pred_rnn_layers, "t_max": None}
        dropout = float(head.decoder.get("dropout", 0.1))
        settings["model_defaults"]["pred_hidden"] = decoder.pred_hidden
        settings["decoder"] = {
            "_target_": "nemo.collections.asr.modules.RNNTDecoder",
            "blank_as_pad": True,
            "prednet": prednet | {"dropout": dropout},
        }
        settings["joint"] = {
            "_target_": "nemo.collections.asr.modules.RNNTJoint",
            "jointnet": {"joint_hidden": joint.joint_hidden, "activation": joint.activation, "dropout": dropout},
        }
        settings["decoding"] = _DECODING
        settings["loss"] = {"loss_name": "default"}
    half = NemoModel(cfg=OmegaConf.create(settings))
    weights = {f"encoder.{key}": value for key, value in model.encoder.state_dict().items()}
    by_token = rows_by_token(list(head_weights), head_weights)
    for key, value in head_weights.items():
        weights[key] = (
            value[text_rows(model.tokenizers[name], len(value)).to(value.device)] if key in by_token else value
        )
    missing, unexpected = half.load_state_dict({key: value.cpu() for key, value in weights.items()}, strict=False)
    missing = [key for key in missing if not key.startswith("preprocessor.")]
    if missing or unexpected:
        raise ConfigError(
            f"The installed NeMo builds another `{NemoModel.__name__}`: it differs in `{[*missing, *unexpected][0]}`."
        )
    return half.eval()


def _check_nemo_form(model: SortformerJointASR, name: str) -> None:
    config = model.config
    head = config.heads[name]
    reasons = []
    if head.kind not in ("ctc", "rnnt"):
        reasons.append(
            f"its kind is `{head.kind}`, and NeMo has no model "
            + ("with one stream per speaker" if head.kind == "ctc_streams" else "with a prompt of speaker tags")
        )
    if build.reads(config, head) != "acoustic":
        reasons.append(
            "it reads the states of the SortFormer encoder, which NeMo's recognizers lack (`reads: acoustic`)"
        )
    if config.speaker_kernel.kind != "none":
        reasons.append("it is given speaker kernels (`speaker_kernel.kind: none`)")
    if head.kind == "ctc" and model.text_heads[name].upsample > 1:
        reasons.append("its decoder has an `upsample` above 1")
    if config.level != "none" and config.preprocessor.get("normalize") != "per_feature":
        reasons.append("the audio is given a gain (`level: none`, or `preprocessor.normalize: per_feature`)")
    if reasons:
        raise ConfigError(f"The text head `{name}` cannot be saved as a model of NeMo: {'; '.join(reasons)}.")


def save_nemo_asr(model: SortformerJointASR, path: str, name: str) -> None:
    """Write :func:`nemo_asr_half` to a .nemo file."""
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        nemo_asr_half(model, name, Path(folder)).save_to(path)
