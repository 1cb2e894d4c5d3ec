# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""From settings to the parts that make a joint model of a diarizer: text heads, speaker kernels, their loss."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from omegaconf import DictConfig
from torch import nn

from nemo_sortformer.config import ConfigError, DiarizerConfig, from_cfg
from nemo_sortformer.config.joint import JointASRConfig, TextHeadConfig
from nemo_sortformer.config.joint_data import JointDatasetConfig
from nemo_sortformer.config.merge import hint_for
from nemo_sortformer.data.speaker_tokenizer import SpeakerTokenizer
from nemo_sortformer.models.joint_asr.prompts import prompt_ids
from nemo_sortformer.models.shared import settings
from nemo_sortformer.models.shared.settings import without_nemo_keys
from nemo_sortformer.modules.attention_text_head import AttentionTextHead
from nemo_sortformer.modules.ctc_text_head import CtcTextHead, StreamTextHead
from nemo_sortformer.modules.speaker_kernel import SpeakerKernel
from nemo_sortformer.modules.transducer_text_head import TransducerTextHead

_CLASSES: dict[str, type[nn.Module]] = {
    "aed": AttentionTextHead,
    "ctc": CtcTextHead,
    "rnnt": TransducerTextHead,
    "ctc_streams": StreamTextHead,
}
_GIVEN = ("self", "input_size", "vocab_size", "num_tokens", "bos_id", "eos_id", "pad_id", "prompt_ids")
"""Arguments of the heads that follow from the model and the tokenizer."""


def typed_config(cfg: DictConfig) -> JointASRConfig:
    """Check the settings under `model:` against :class:`JointASRConfig`.

    Raises:
        ConfigError: a key is unknown, missing or out of its range.
    """
    if "text" not in cfg:
        raise ConfigError(
            "`model.text` must have one text head or more, but is not there: these are the settings of a diarizer. "
            "Restore its file as `SortformerDiarizer`; to start a joint model from it, use `init_from_nemo_model`."
        )
    config = settings.typed_config(JointASRConfig, cfg)
    _ = config.heads  # checks them
    return config


def dataset_config(cfg: Any, *, name: str) -> JointDatasetConfig:
    """Check the settings of one data source, e.g. those under `train_ds`."""
    return from_cfg(JointDatasetConfig, without_nemo_keys(cfg), path=f"model.{name}")


def reads(config: JointASRConfig, head: TextHeadConfig) -> str:
    """What a head reads: `states` or `acoustic`."""
    return head.reads or config.reads


def build_text_heads(
    config: JointASRConfig, tokenizers: Mapping[str, SpeakerTokenizer], widths: Mapping[str, int]
) -> nn.ModuleDict:
    """Build the text heads; `widths` are those of the `states` and of the `acoustic` features.

    Raises:
        ConfigError: a key of a decoder is unknown or out of its range.
    """
    return nn.ModuleDict(
        {
            name: _build_head(name, head, tokenizers[name], widths[reads(config, head)])
            for name, head in config.heads.items()
        }
    )


def _build_head(name: str, head: TextHeadConfig, tokenizer: SpeakerTokenizer, width: int) -> nn.Module:
    cls = _CLASSES[head.kind]
    known = [key for key in inspect.signature(cls.__init__).parameters if key not in _GIVEN]
    where = f"model.text.{name}.decoder"
    for key in head.decoder:
        if key not in known:
            raise ConfigError(f"`{where}.{key}` is no key of the decoder `{head.kind}`. {hint_for(key, known)}")
    given: dict[str, Any] = {"input_size": width}
    if head.kind == "aed":
        given |= {"vocab_size": tokenizer.vocab_size}
        given |= {key: getattr(tokenizer, key) for key in ("bos_id", "eos_id", "pad_id")}
        given["prompt_ids"] = prompt_ids(tokenizer, head.prompt, where=f"model.text.{name}.prompt")
    else:
        given["num_tokens"] = tokenizer.num_text_tokens if head.kind == "ctc_streams" else tokenizer.vocab_size
    try:
        return cls(**given, **head.decoder)
    except (ValueError, TypeError, AssertionError) as error:
        raise ConfigError(f"`{where}`: {error}") from error


def build_kernels(config: JointASRConfig, widths: Mapping[str, int]) -> nn.ModuleDict:
    """One speaker kernel for each thing that is read; none where `speaker_kernel.kind` is ``none``."""
    kernel = config.speaker_kernel
    if kernel.kind == "none":
        return nn.ModuleDict()
    read = sorted({reads(config, head) for head in config.heads.values()})
    try:
        return nn.ModuleDict(
            {
                one: SpeakerKernel(widths[one], config.max_num_of_spks, kind=kernel.kind, norm=kernel.norm)
                for one in read
            }
        )
    except ValueError as error:
        raise ConfigError(f"`model.speaker_kernel`: {error}") from error


def diarizer_settings(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Leave of the settings of a joint model those that a diarizer has too; the data sources, which differ, go."""
    own = {field.name for field in fields(JointASRConfig)} - {field.name for field in fields(DiarizerConfig)}
    return {key: value for key, value in cfg.items() if key not in own | set(settings.DATASET_NAMES)}
