# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Reading .nemo files: the settings and the weights in them, never the model, and no code that they carry."""

from __future__ import annotations

import os
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from torch import Tensor

CONFIG_NAME, WEIGHTS_NAME = "model_config.yaml", "model_weights.ckpt"
MAX_CONFIG_BYTES = 20_000_000
"""The longest settings of published models, with a vocabulary in them, are a hundredth of that."""


class NemoFileError(ValueError):
    """A .nemo file cannot be read, or does not hold what was asked of it."""


def read_nemo_config(path: str | os.PathLike[str]) -> DictConfig:
    """Read the model configuration of a .nemo file (or of a folder with its contents) without building the model.

    Raises:
        NemoFileError: the file is missing, is no .nemo archive, or has no configuration that can be read.
    """
    with open_member(path, CONFIG_NAME) as file:
        content = file.read(MAX_CONFIG_BYTES + 1)
    if len(content) > MAX_CONFIG_BYTES:
        raise NemoFileError(f"`{path}`: `{CONFIG_NAME}` in it is longer than {MAX_CONFIG_BYTES} bytes.")
    try:
        config = OmegaConf.create(content.decode())
    except Exception as error:  # of yaml, of omegaconf, of the decoder: each has its own
        reason = " ".join(str(error).split())
        raise NemoFileError(f"`{path}`: `{CONFIG_NAME}` in it is no YAML: {reason}") from error
    if not isinstance(config, DictConfig):
        raise NemoFileError(f"`{path}`: `{CONFIG_NAME}` in it must be a group of keys, but is a list.")
    return config


def read_nemo_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the weights of a .nemo file, a folder with its contents, or a Lightning checkpoint, onto the CPU.

    Raises:
        NemoFileError: the file is missing, cannot be read, or holds no weights.
    """
    import torch

    path = Path(path)
    is_checkpoint = path.suffix in (".ckpt", ".pt", ".pth") and path.is_file()
    try:
        # Only tensors and plain containers are unpickled. Lightning's own checkpoints hold more than that.
        with path.open("rb") if is_checkpoint else open_member(path, WEIGHTS_NAME) as file:
            weights = torch.load(file, map_location="cpu", weights_only=not is_checkpoint)
    except NemoFileError:
        raise
    except Exception as error:
        raise NemoFileError(f"`{path}`: the weights in it cannot be read: {error}") from error
    return weights.get("state_dict", weights)


def member_names(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """List what a .nemo file (or a folder with its contents) holds, by name.

    Raises:
        NemoFileError: the file is missing, or is no .nemo archive.
    """
    path = Path(path)
    if path.is_dir():
        return tuple(sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()))
    with _open_archive(path) as archive:
        return tuple(member.name.removeprefix("./") for member in archive if member.isfile())


@contextmanager
def open_member(path: str | os.PathLike[str], name: str) -> Iterator[IO[bytes]]:
    """Open one file inside a .nemo file (or a folder with its contents), to be read in place.

    Raises:
        NemoFileError: the file is missing, is no .nemo archive, is truncated, or has no such member.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / name).is_file():
            raise NemoFileError(f"The folder `{path}` has no `{name}`, so it is no unpacked .nemo file.")
        with (path / name).open("rb") as file:
            yield file
        return
    with _open_archive(path) as archive:
        for member in archive:
            if member.name.removeprefix("./") == name and member.isfile():
                found = archive.extractfile(member)
                if found is not None:
                    with found:
                        yield found
                    return
    raise NemoFileError(f"`{path}` is an archive without `{name}`, so it is no .nemo file.")


@contextmanager
def _open_archive(path: Path) -> Iterator[tarfile.TarFile]:
    if not path.is_file():
        raise NemoFileError(f"The .nemo file `{path}` does not exist.")
    try:
        with tarfile.open(path) as archive:
            yield archive
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        reason = str(error).partition("\n")[0].rstrip(":")  # tarfile goes on with a line per compression
        raise NemoFileError(f"`{path}` is no .nemo file (NeMo's tar archive), or it is truncated: {reason}") from error
