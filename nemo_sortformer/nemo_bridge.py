# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The one file that touches NeMo's private parts: its allow-list of classes, and .nemo files without their model."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

PREFIX = "nemo_sortformer."
_CONFIG_NAME, _WEIGHTS_NAME = "model_config.yaml", "model_weights.ckpt"


class NemoFileError(ValueError):
    """A .nemo file cannot be read, or does not hold what was asked of it."""


def register() -> bool:
    """Let NeMo build the classes of this package: from ``_target_`` in its YAMLs, and from .nemo files.

    NeMo 3.0 refuses classes outside an allow-list of prefixes. Exactly ``nemo_sortformer.`` is added, once.

    Returns:
        Whether NeMo has such a list; a version without one needs no entry.
    """
    from nemo.core.classes import common

    allowed = getattr(common, "ALLOWED_TARGET_PREFIXES", None)
    if not isinstance(allowed, list):
        return False
    if PREFIX not in allowed:
        allowed.append(PREFIX)
    return True


def reset_restore_state() -> None:
    """Tell NeMo that no restore is under way. NeMo forgets to when one fails, and then sets up no data any more."""
    from nemo.core.classes import ModelPT

    if hasattr(ModelPT, "_set_model_restore_state"):
        ModelPT._set_model_restore_state(is_being_restored=False)


def read_nemo_config(path: str | os.PathLike[str]) -> DictConfig:
    """Read the model configuration of a .nemo file (or of a folder with its contents) without building the model.

    Raises:
        NemoFileError: the file is missing, is no .nemo archive, or has no configuration.
    """
    config = OmegaConf.create(_read_member(Path(path), _CONFIG_NAME).decode())
    if not isinstance(config, DictConfig):
        raise NemoFileError(f"`{path}`: `{_CONFIG_NAME}` in it must be a group of keys, but is a list.")
    return config


def read_nemo_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the weights of a .nemo file, a folder with its contents, or a Lightning checkpoint, onto the CPU.

    Raises:
        NemoFileError: the file is missing, cannot be read, or holds no weights.
    """
    path = Path(path)
    is_checkpoint = path.suffix in (".ckpt", ".pt", ".pth")
    content = path.read_bytes() if is_checkpoint and path.is_file() else _read_member(path, _WEIGHTS_NAME)
    try:
        # Only tensors and plain containers are unpickled. Lightning's own checkpoints hold more than that.
        weights = torch.load(io.BytesIO(content), map_location="cpu", weights_only=not is_checkpoint)
    except Exception as error:
        raise NemoFileError(f"`{path}`: the weights in it cannot be read: {error}") from error
    return weights.get("state_dict", weights)


def _read_member(path: Path, name: str) -> bytes:
    if path.is_dir():
        if not (path / name).is_file():
            raise NemoFileError(f"The folder `{path}` has no `{name}`, so it is no unpacked .nemo file.")
        return (path / name).read_bytes()
    if not path.is_file():
        raise NemoFileError(f"The .nemo file `{path}` does not exist.")
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.name.removeprefix("./") == name:
                    file = archive.extractfile(member)
                    if file is not None:
                        return file.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        reason = str(error).partition("\n")[0].rstrip(":")  # tarfile goes on with a line per compression
        raise NemoFileError(f"`{path}` is no .nemo file (NeMo's tar archive), or it is truncated: {reason}") from error
    raise NemoFileError(f"`{path}` is an archive without `{name}`, so it is no .nemo file.")


@dataclass(frozen=True)
class LoadReport:
    """What a partial load took from a file."""

    path: str
    loaded: tuple[str, ...]
    """Names in the model that were set."""
    missing: tuple[str, ...]
    """Names in the model that were asked for and that the file lacks; they keep their values."""
    unused: tuple[str, ...]
    """Names in the file that were asked for and that the model lacks."""

    def __str__(self) -> str:
        text = f"{len(self.loaded)} tensors loaded from `{self.path}`"
        rest = (("kept their start values", self.missing), ("of the file have no place here", self.unused))
        for words, names in rest:
            if names:
                text += f"; {len(names)} {words} (`{names[0]}`{', ...' if len(names) > 1 else ''})"
        return text + "."


def load_weights(
    model: nn.Module,
    weights: dict[str, Tensor],
    *,
    path: str,
    include: Sequence[str] = ("",),
    exclude: Sequence[str] = (),
) -> LoadReport:
    """Copy those of `weights` into `model` whose names start with one of `include` and with none of `exclude`.

    A prefix is a whole path: `encoder` (or `encoder.`) is `encoder.layers...`, never `transformer_encoder...` or
    `encoder_proj...`; NeMo's own loading takes it for a part of the name anywhere.

    Raises:
        NemoFileError: nothing fits, or a tensor has another shape than its place in the model.
    """
    wanted = _prefix_test(include, exclude)
    own = {name: tensor for name, tensor in model.state_dict().items() if wanted(name)}
    given = {name: tensor for name, tensor in weights.items() if wanted(name)}
    both = [name for name in own if name in given]
    if not both:
        kinds = sorted({name.partition(".")[0] for name in weights})
        raise NemoFileError(
            f"`{path}` has no weights named {', '.join(f'`{p}`' for p in include if p) or 'as in this model'}, so "
            f"nothing can start from it; it has {', '.join(f'`{kind}`' for kind in kinds)}."
        )
    wrong = [name for name in both if own[name].shape != given[name].shape]
    if wrong:
        first = wrong[0]
        raise NemoFileError(
            f"{len(wrong)} tensors of `{path}` have another shape than here, the first is `{first}`: "
            f"{tuple(given[first].shape)} in the file, {tuple(own[first].shape)} in the model. Set the model's "
            f"sizes to those of the file, or leave these names out."
        )
    model.load_state_dict({name: given[name] for name in both}, strict=False)
    return LoadReport(
        path=path,
        loaded=tuple(both),
        missing=tuple(name for name in own if name not in given),
        unused=tuple(name for name in given if name not in own),
    )


def _prefix_test(include: Sequence[str], exclude: Sequence[str]) -> Callable[[str], bool]:
    def starts(name: str, prefix: str) -> bool:
        return not prefix or name == prefix or name.startswith(prefix.rstrip(".") + ".")

    return lambda name: any(starts(name, p) for p in include) and not any(starts(name, p) for p in exclude)


_SAME_IN_BOTH = {
    "preprocessor": ("features", "normalize", "window_size", "window_stride", "n_fft", "sample_rate"),
    "encoder": ("d_model", "n_layers", "feat_in", "subsampling_factor", "subsampling", "self_attention_model"),
}
"""Keys that must agree where an acoustic encoder is taken over: other mels would silently give other numbers."""


def load_encoder(model: nn.Module, cfg: Any, path: str | os.PathLike[str], *, prefix: str = "encoder") -> LoadReport:
    """Start the acoustic encoder of `model` from any NeMo .nemo file that has one, without building that file's model.

    Args:
        model: has the attribute `encoder`.
        cfg: the model's own configuration, with `preprocessor` and `encoder`.
        path: a .nemo file of an ASR, speaker or diarization model.
        prefix: name of the encoder there and here.

    Returns:
        What was loaded.

    Raises:
        NemoFileError: the mel front ends or the sizes differ, or the file has no such encoder.
    """
    source = read_nemo_config(path)
    differences = [
        f"`{group}.{key}` is {source[group][key]!r} there and {cfg[group][key]!r} here"
        for group, keys in _SAME_IN_BOTH.items()
        for key in keys
        if _has(source, group, key) and _has(cfg, group, key) and source[group][key] != cfg[group][key]
    ]
    if differences:
        raise NemoFileError(
            f"The encoder of `{path}` does not fit this model: {'; '.join(differences)}. "
            f"Give the model the values of the file."
        )
    return load_weights(model, read_nemo_weights(path), path=str(path), include=[prefix])


def _has(cfg: Any, group: str, key: str) -> bool:
    return cfg.get(group) is not None and cfg[group].get(key) is not None
