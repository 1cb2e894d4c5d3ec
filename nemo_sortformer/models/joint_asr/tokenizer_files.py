# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The tokenizers of a joint model: NeMo's, made by NeMo's keys, kept inside the .nemo file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nemo.collections.common import tokenizers
from nemo.core.classes import ModelPT
from nemo.utils.model_utils import ArtifactPathType

from nemo_sortformer.config import ConfigError
from nemo_sortformer.data.speaker_tokenizer import SpeakerTokenizer
from nemo_sortformer.models.shared.settings import instantiate

_KEYS = ("type", "dir", "model_path", "vocab_path", "langs", "custom_tokenizer", "language")
_PASSED_OVER = ("spe_tokenizer_vocab", "hf_kwargs")
"""Keys of NeMo that name what nothing here reads."""


def build_tokenizer(model: ModelPT, name: str, cfg: Mapping[str, Any], *, num_speakers: int) -> SpeakerTokenizer:
    """Make the tokenizer of one text head, and have its files kept in the model's .nemo file.

    Args:
        model: to which the files belong; it may be half built.
        name: of the text head.
        cfg: NeMo's keys; see `TextHeadConfig.tokenizer`.
        num_speakers: how many speaker tags are put behind its tokens.

    Raises:
        ConfigError: a key is unknown, or a file is missing, in the file system or in the .nemo file.
    """
    where = f"text.{name}.tokenizer"
    unknown = [key for key in cfg if key not in _KEYS + _PASSED_OVER]
    if unknown:
        raise ConfigError(f"`model.{where}.{unknown[0]}` is no key of a tokenizer. It knows {', '.join(_KEYS)}.")
    kind = str(cfg.get("type") or "").lower()
    if kind == "agg":
        parts = {
            str(language): _one(model, f"{where}.langs.{language}", part) for language, part in _langs(cfg, where)
        }
        custom = (cfg.get("custom_tokenizer") or {}).get("_target_")
        if custom:  # not by our `instantiate`: settings hold no objects
            inner = model.from_config_dict({"_target_": custom, "tokenizers": parts})
        else:
            inner = tokenizers.AggregateTokenizer(parts)
    else:
        inner = _one(model, where, cfg)
    return SpeakerTokenizer(inner, num_speakers, language=cfg.get("language"))


def _langs(cfg: Mapping[str, Any], where: str) -> list[tuple[str, Mapping[str, Any]]]:
    langs = cfg.get("langs")
    if not isinstance(langs, Mapping) or not langs:
        raise ConfigError(f"`model.{where}.langs` must have a tokenizer for each language, but is {langs!r}.")
    return list(langs.items())


def _one(model: ModelPT, where: str, cfg: Mapping[str, Any]) -> Any:
    kind = str(cfg.get("type") or "").lower()
    if kind == "bpe":
        path = _kept_file(model, where, cfg, "model_path", "tokenizer.model")
        custom = (cfg.get("custom_tokenizer") or {}).get("_target_")
        if custom:
            return instantiate({"_target_": custom, "model_path": path})
        return tokenizers.SentencePieceTokenizer(model_path=path)
    if kind == "wpe":
        path = _kept_file(model, where, cfg, "vocab_path", "vocab.txt")
        return tokenizers.AutoTokenizer(pretrained_model_name="bert-base-cased", vocab_file=path)
    raise ConfigError(
        f"`model.{where}.type` must be `bpe` (SentencePiece), `wpe` (WordPiece) or `agg` (several), but is "
        f"{cfg.get('type')!r}."
    )


def _kept_file(model: ModelPT, where: str, cfg: Mapping[str, Any], key: str, name: str) -> str:
    """The path of a tokenizer's file, registered as a part of the model."""
    path = cfg.get(key)
    if not path:
        if not cfg.get("dir"):
            raise ConfigError(
                f"`model.{where}` must name the tokenizer's files by `dir` or `{key}`, but has neither. "
                "NeMo's `scripts/tokenizers/process_asr_text_tokenizer.py` makes one from text."
            )
        path = os.path.join(str(cfg["dir"]), name)
    if not str(path).startswith("nemo:") and not Path(str(path)).is_file():
        raise ConfigError(
            f"`model.{where}`: the file `{path}` does not exist. Set `{key}`, or `dir` to the folder with `{name}`."
        )
    try:
        return str(model.register_artifact(f"{where}.{key}", str(path)))
    except (FileNotFoundError, TypeError) as error:  # without a file being restored NeMo joins a path with nothing
        raise ConfigError(
            f"`model.{where}`: the tokenizer `{str(path).removeprefix('nemo:')}` is missing from the .nemo file, so "
            f"that no text can be read or written. Put it back, or set `{key}` to its path in the settings."
        ) from error


@contextmanager
def kept_tokenizers(model: Any) -> Iterator[None]:
    """While a model is saved, have its SentencePiece files where NeMo finds them.

    NeMo copies the files of a restored model out of the .nemo file that it came from, which may be gone by then. The
    tokenizers hold all that is in those files, so they are written anew.
    """
    with tempfile.TemporaryDirectory() as folder:
        for key, artifact in (getattr(model, "artifacts", None) or {}).items():
            _, name, _, *rest = key.split(".")
            inner = model.tokenizers[name].tokenizer
            part = inner.tokenizers_dict[rest[1]] if rest[0] == "langs" else inner
            content = getattr(getattr(part, "tokenizer", None), "serialized_model_proto", None)
            if content is None or not key.endswith(".model_path"):
                continue
            path = Path(folder) / f"{len(os.listdir(folder))}" / "tokenizer.model"
            path.parent.mkdir()
            path.write_bytes(content())
            artifact.path, artifact.path_type = str(path), ArtifactPathType.LOCAL_PATH
        yield
