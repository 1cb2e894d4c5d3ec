# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The kinds of NeMo models, told from the class that a file names and from its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_KINDS = (
    # part of the class name, kind; the first that fits
    ("SortformerEncLabelModel", "Sortformer diarizer"),
    ("SortformerDiarizer", "Sortformer diarizer"),
    ("SortformerLabeler", "Sortformer labeler"),
    ("SortformerJointASR", "Sortformer diarizer with text heads"),
    ("Hybrid", "hybrid {transducer} and CTC speech recognizer"),
    ("EncDecMultiTaskModel", "attention (AED, Canary) speech recognizer"),
    ("EncDecTransfModelBPE", "attention (AED) speech recognizer"),
    ("EncDecMultiTalkerRNNT", "multi-talker {transducer} speech recognizer"),
    ("EncDecRNNT", "{transducer} speech recognizer"),
    ("EncDecCTC", "CTC speech recognizer"),
    ("SelfSupervised", "self-supervised speech encoder"),
    ("MaskedTokenPred", "self-supervised speech encoder"),
    ("EncDecSpeakerLabel", "speaker embedding model"),
    ("EncDecFrameClassification", "frame classifier"),
    ("EncDecClassification", "audio classifier"),
    ("EncDecDiarLabelModel", "multi-scale diarization decoder"),
)


_VOCABULARIES = (("labels",), ("joint", "vocabulary"), ("decoder", "vocabulary"), ("aux_ctc", "decoder", "vocabulary"))
_TOKEN_COUNTS = (
    ("joint", "num_classes"),
    ("decoder", "num_classes"),
    ("decoder", "vocab_size"),
    ("head", "num_classes"),
)


def kind_of(target: str, cfg: Mapping[str, Any]) -> str:
    """Name the kind of model in words; all speech recognizers end with those two words."""
    name = target.rpartition(".")[2]
    for part, kind in _KINDS:
        if part in name:
            return kind.format(transducer="TDT" if _is_tdt(cfg) else "RNN-T")
    if target.startswith("nemo_sortformer."):
        return f"model of nemo_sortformer ({name})"
    return f"other NeMo model ({name})" if name else "NeMo model that does not name its class"


def tokenizer_of(cfg: Mapping[str, Any]) -> dict[str, Any] | None:
    """The kind of a speech recognizer's tokens and their number; None where there are none."""
    tokenizer = cfg.get("tokenizer")
    if isinstance(tokenizer, Mapping):
        found: dict[str, Any] = {"type": tokenizer.get("type") or "unknown"}
        languages = tokenizer.get("langs")
        if isinstance(languages, Mapping):
            found["languages"] = sorted(languages)
        return found | _count(cfg)
    count = _count(cfg)
    return {"type": "characters"} | count if count and cfg.get("labels") is not None else None


def _count(cfg: Mapping[str, Any]) -> dict[str, int]:
    for place in _VOCABULARIES:
        node: Any = cfg
        for key in place:
            node = node.get(key) if isinstance(node, Mapping) else None
        if isinstance(node, (list, tuple)) and node:
            return {"tokens": len(node)}
    for group, key in _TOKEN_COUNTS:
        node = cfg.get(group)
        value = node.get(key) if isinstance(node, Mapping) else None
        if isinstance(value, int) and value > 0:
            return {"tokens": value}
    return {}


def _is_tdt(cfg: Mapping[str, Any]) -> bool:
    loss, decoding, defaults = (cfg.get(name) for name in ("loss", "decoding", "model_defaults"))
    return (
        (isinstance(loss, Mapping) and loss.get("loss_name") in ("tdt", "tdt_pytorch"))
        or (isinstance(decoding, Mapping) and decoding.get("model_type") == "tdt")
        or (isinstance(defaults, Mapping) and bool(defaults.get("tdt_durations")))
    )
