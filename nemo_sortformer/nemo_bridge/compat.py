# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What the settings of a NeMo diarizer have that this package lacks, and whether that changes the numbers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from nemo_sortformer.config import DiarizerConfig
from nemo_sortformer.nemo_bridge.signatures import class_exists, signature_of

NEMO_DIARIZER = "nemo.collections.asr.models.sortformer_diar_models.SortformerEncLabelModel"
PARTS = ("preprocessor", "encoder", "sortformer_modules", "transformer_encoder")
"""The groups that make the probabilities; each has a class, which refuses keys that it does not know."""

NEMO_ONLY = (
    "optim_param_groups",
    "freeze_updates",
    "nsys_profile",
    "memory_profile",
    "chakra_profile",
    "dump_debug_info",
)
"""Keys that NeMo's `ModelPT` reads by itself; they pass unchecked."""

_WITHOUT_EFFECT = frozenset(
    [
        "name",
        "fc_d_model",
        "tf_d_model",
        "num_workers",
        "batch_size",
        "session_len_sec",
        "lr",
        "pil_weight",
        "ats_weight",
        "streaming_mode",
        "async_streaming",
        "negative_init_val",
        "max_batch_dur",
    ]
) | {*NEMO_ONLY, *(field.name for field in fields(DiarizerConfig))}
"""Keys of ours, and those of NeMo 3.0 that we take over or that name sizes and memory that are told elsewhere."""
_TRAINING = frozenset(
    [
        "augmentor",
        "seed",
        "activity_weight",
        "activity_loss",
        "phantom_weight",
        "phantom_loss",
        "phantom_target",
        "phantom_threshold",
        "phantom_temperature",
        "ats_tolerance",
        "max_causal_tail_len",
        "causal_tail_prob",
        "min_causal_tail_block_size",
        "max_causal_tail_block_size",
    ]
)
"""Keys about training that are not taken over: the probabilities do not depend on them."""
_MODEL_NUMBERS: dict[str, tuple[tuple[Any, ...], str]] = {
    "high_resolution": ((None, False), "frames of 10 ms out of a layer that NeMo 3.0 and this package lack"),
    "eps": ((None, 0.001), "another gain of the audio; here it is the maximum plus 0.001"),
}
_HEAD_NUMBERS: dict[str, tuple[tuple[Any, ...], str]] = {
    "upsample_factor": ((None, 1), "frames of 10 ms out of a layer that NeMo 3.0 and this package lack"),
    "use_learnable_sil_emb": ((None, False), "a learnt silence in the speaker cache, which NeMo 3.0 lacks as well"),
}
"""Keys of newer NeMo with the values at which they change nothing, and what they change at others."""
_DATA = frozenset(
    (
        "num_spks",
        "num_speakers",
        "labels",
        "validation_mode",
        "seq_eval_mode",
        "is_tarred",
        "tarred_audio_filepaths",
        "int_values",
        "window_stride",
        "subsampling_factor",
        "use_bucketing",
        "num_buckets",
        "bucket_duration_bins",
        "min_duration",
        "max_duration",
        "batch_duration",
        "quadratic_duration",
        "bucket_buffer_size",
        "shuffle_buffer_size",
    )
)
"""Keys of NeMo 3.0's data sets that repeat the model's, or that only its lhotse loader reads."""
_NEWER = "Use it with the NeMo that wrote it: NeMo 3.0 does not load it either."
_WITHOUT_KEY = (
    "Use the file with the NeMo that wrote it; or, where you know that the key changes nothing, restore it with the "
    "settings without the key as `override_config_path`."
)


@dataclass(frozen=True)
class Finding:
    """One thing in a file that this package does not have."""

    key: str
    """Where it stands in the settings, dotted."""
    text: str
    """What it is and what follows."""
    way_out: str = ""
    """What the user can do, where the finding is fatal."""

    @property
    def fatal(self) -> bool:
        """Whether the numbers would be others without it, so that the file cannot be loaded."""
        return bool(self.way_out)

    def __str__(self) -> str:
        return f"`{self.key}`: {self.text} {self.way_out}".rstrip()


def diarizer_findings(cfg: Mapping[str, Any]) -> list[Finding]:
    """Compare the settings of NeMo's `SortformerEncLabelModel`, as plain dicts, with what this package knows."""
    return [*_missing_parts(cfg), *_model_keys(cfg), *_part_keys(cfg)]


def ignored_data_keys(group: Mapping[str, Any], known: Collection[str]) -> list[str]:
    """List the keys of one of NeMo's data sources that ask for something and are neither in `known` nor idle."""
    return [
        key for key, value in group.items() if key not in known and key not in _DATA and value not in (None, False)
    ]


def _missing_parts(cfg: Mapping[str, Any]) -> Iterator[Finding]:
    reasons = {
        "encoder": "nothing hears there",
        "transformer_encoder": "the labels come straight from the encoder there",
    }
    for part, reason in reasons.items():
        if not cfg.get(part):
            yield Finding(part, f"the diarizer has none; {reason}.", _NEWER)


def _model_keys(cfg: Mapping[str, Any]) -> Iterator[Finding]:
    encoder = cfg.get("encoder") if isinstance(cfg.get("encoder"), Mapping) else {}
    factor = encoder.get("subsampling_factor", 8) if encoder else 8
    for key, value in cfg.items():
        if key in PARTS or key in _WITHOUT_EFFECT:
            continue
        if key in _MODEL_NUMBERS:
            yield from _judged(key, value, *_MODEL_NUMBERS[key])
        elif key == "output_subsampling_factor":
            yield from _judged(key, value, (None, factor), "another frame rate than the encoder's")
        elif key in _TRAINING:
            if value not in (None, 0, 0.0, False):
                yield Finding(key, "about training only, and not taken over.")
        else:
            yield Finding(key, f"not known here, and ignored (it is {_short(value)}).")


def _part_keys(cfg: Mapping[str, Any]) -> Iterator[Finding]:
    for part in PARTS:
        group = cfg.get(part)
        if not isinstance(group, Mapping) or not group.get("_target_"):
            continue
        target = str(group["_target_"])
        signature = signature_of(target)
        if signature is None:
            if not class_exists(target):
                yield Finding(f"{part}._target_", f"no installed package has a class `{target}`.", _NEWER)
            continue
        for key, value in group.items():
            if key == "_target_" or key in signature.defaults:
                continue
            where = f"{part}.{key}"
            if part == "sortformer_modules":
                if key in _HEAD_NUMBERS:
                    yield from _judged(where, value, *_HEAD_NUMBERS[key])
                else:
                    yield Finding(where, f"not known here, and ignored (it is {_short(value)}).")
            elif not signature.takes_any:
                name = target.rpartition(".")[2]
                text = f"`{name}` of the installed version has no such key"
                if value is None:
                    yield Finding(where, f"{text}; it is null, and ignored.")
                else:
                    yield Finding(where, f"{text}; what {_short(value)} does there is not known.", _WITHOUT_KEY)
        if part == "encoder" and group.get("self_attention_model") == "rope":
            yield Finding("encoder.self_attention_model", "rotary positions.", _NEWER)


def _judged(key: str, value: Any, neutral: tuple[Any, ...], text: str) -> Iterator[Finding]:
    if value not in neutral:
        yield Finding(key, f"it is {_short(value)}: {text}. The probabilities would be others.", _NEWER)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
