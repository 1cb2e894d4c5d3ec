# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Files of embeddings and frame labels (.npy, .npz, .pt), opened without reading them whole, and their manifests."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemo_sortformer.data.manifest import ManifestError, iter_json_lines

__all__ = ["EMBEDDING_SUFFIXES", "EmbeddingEntry", "EmbeddingError", "open_array", "read_embedding_manifest"]

EMBEDDING_SUFFIXES = (".npy", ".npz", ".pt", ".pth")
_EMBEDDINGS, _LABELS = "embeddings", "labels"


class EmbeddingError(ValueError):
    """A sequence of embeddings, or its labels, cannot be used."""


@dataclass(frozen=True, kw_only=True)
class EmbeddingEntry:
    """One sequence: where its embeddings and labels are, or these themselves. Nothing is read yet."""

    name: str
    """Names the sequence in messages and results."""
    path: Path | None = None
    """File of the embeddings; None where `array` holds them."""
    array: NDArray[Any] | None = field(default=None, compare=False, repr=False)
    """The embeddings, shape (frames, dim)."""
    labels: Mapping[str, Path | NDArray[Any]] = field(default_factory=dict, compare=False)
    """Frame labels by kind, as files or arrays."""
    rttm: Mapping[str, Path] = field(default_factory=dict)
    """Segments by kind, instead of frame labels."""
    frame_seconds: float | None = None
    """Seconds per frame, where the manifest says it."""
    num_frames: int | None = None
    """Length, where the manifest says it."""
    source: str = field(default="", compare=False)
    """Where the entry was read, as ``file:line``."""

    offset = 0.0
    duration = None

    @property
    def where(self) -> str:
        """What messages begin with: line of the manifest, and file."""
        return ": ".join(str(part) for part in (self.source, self.path or f"`{self.name}`") if part)

    @property
    def rttm_filepath(self) -> Path | None:
        """The reference of the only or first kind of label, if it is an RTTM file."""
        return next(iter(self.rttm.values()), None)

    def open(self) -> NDArray[Any]:
        """The embeddings, shape (frames, dim), memory-mapped where the file allows it; values are not looked at.

        Raises:
            EmbeddingError: the file is missing or has another form.
        """
        try:
            array = _as_numpy(self.array) if self.path is None else open_array(self.path, _EMBEDDINGS)
        except EmbeddingError as error:
            raise self.error(str(error)) from error
        if array.ndim != 2:
            raise self.error(f"embeddings must have the shape (frames, dim), but have {array.shape}.")
        if not np.issubdtype(array.dtype, np.floating) and not np.issubdtype(array.dtype, np.integer):
            raise self.error(f"embeddings must be numbers, but are of type {array.dtype}.")
        return array

    def open_labels(self, kind: str) -> NDArray[Any] | None:
        """The frame labels of a kind as they are stored; None where nothing names any.

        In an .npz or .pt file of embeddings, `labels` (`labels_<kind>` with several kinds) may stand beside them.
        """
        try:
            if kind in self.labels:
                given = self.labels[kind]
                return open_array(given, _LABELS) if isinstance(given, Path) else _as_numpy(given)
            if self.path is None or self.path.suffix == ".npy":
                return None
            return open_array(self.path, f"{_LABELS}_{kind}" if kind else _LABELS, optional=True)
        except EmbeddingError as error:
            raise self.error(str(error)) from error

    def error(self, text: str) -> EmbeddingError:
        """An error of this sequence, which says where it stands."""
        path = f"{self.path}: "
        return EmbeddingError(f"{self.where}: {text.removeprefix(path)}")


def open_array(path: Path, key: str, *, optional: bool = False) -> Any:
    """Open an array of a file: .npy and .pt are memory-mapped, .npz is unpacked.

    Args:
        path: of the file.
        key: name of the array in an .npz file, or in a dict in a .pt file. A file with a single array needs no name.
        optional: None, instead of an error, where the file has no such array.

    Raises:
        EmbeddingError: the file is missing, is not what its suffix says, or has no such array.
    """
    if path.suffix not in EMBEDDING_SUFFIXES:
        raise EmbeddingError(f"{path}: must end in one of {', '.join(EMBEDDING_SUFFIXES)}.")
    if not path.is_file():
        raise EmbeddingError(f"{path}: {'is a folder' if path.is_dir() else 'there is no such file'}.")
    try:
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                chosen = _choose(archive.files, key, path, optional)
                return None if chosen is None else archive[chosen]
        return _open_torch(path, key, optional)
    except EmbeddingError:
        raise
    except (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, UnpicklingError) as error:
        reason = (str(error) or type(error).__name__).partition("\n")[0]
        # NumPy's advice would be to unpickle, that is to run, what stands in the file.
        if "pickle" in reason.lower() or "Python objects" in reason:
            reason = "what is in it is no plain array."
        raise EmbeddingError(f"{path}: is no {path.suffix} file of numbers, or is damaged: {reason}") from error


def _open_torch(path: Path, key: str, optional: bool) -> NDArray[Any] | None:
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:  # torch's old format cannot be mapped
        content = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(content, Mapping):
        chosen = _choose(list(content), key, path, optional)
        if chosen is None:
            return None
        content = content[chosen]
    elif key != _EMBEDDINGS and optional:
        return None
    if not isinstance(content, torch.Tensor):
        raise EmbeddingError(f"{path}: must hold a tensor or a dict of tensors, but holds a {type(content).__name__}.")
    return _as_numpy(content)


def _choose(names: list[str], key: str, path: Path, optional: bool) -> str | None:
    if key in names:
        return key
    if optional:
        return None
    if len(names) == 1:
        return names[0]
    raise EmbeddingError(f"{path}: must hold an array `{key}`, but holds {', '.join(f'`{n}`' for n in names)}.")


def _as_numpy(array: Any) -> NDArray[Any]:
    if hasattr(array, "detach"):  # a tensor; NumPy has no bfloat16
        array = array.detach().cpu()
        return np.asarray(array.float().numpy() if array.is_floating_point() else array.numpy())
    return np.asarray(array)


def read_embedding_manifest(path: str | Path) -> list[EmbeddingEntry]:
    """Read a JSON-lines manifest of sequences. Blank lines are skipped; the files that it names are not opened.

    A line has `embeddings_filepath`, and `labels_filepath` or `rttm_filepath` (or a group of these by kind of label),
    `frame_seconds`, `num_frames` and `uniq_id` where these are known. Paths are meant from the manifest's folder.
    Sequences are named by `uniq_id`, or their file.

    Raises:
        ManifestError: the file is missing or empty, or a line is wrong; the message says which.
    """
    entries = []
    for line in iter_json_lines(path, _parse):
        if isinstance(line, ManifestError):
            raise line
        entries.append(line)
    if not entries:
        raise ManifestError(f"{path}: has no entries.")
    return entries


def _parse(record: Any, *, folder: Path, source: str) -> EmbeddingEntry:
    if not isinstance(record, dict):
        raise ValueError(f"a line must be a JSON object, but is a {type(record).__name__}.")
    path = record.get("embeddings_filepath")
    if path in (None, ""):
        raise ValueError(f"`embeddings_filepath` is missing; the keys are {', '.join(f'`{key}`' for key in record)}.")
    if record.get("labels_filepath") and record.get("rttm_filepath"):
        raise ValueError("`labels_filepath` and `rttm_filepath` are both given. Keep one.")
    file = _path("embeddings_filepath", path, folder)
    return EmbeddingEntry(
        name=str(record.get("uniq_id") or file.stem),
        path=file,
        labels=_paths("labels_filepath", record, folder),
        rttm=_paths("rttm_filepath", record, folder),
        frame_seconds=_positive("frame_seconds", record, float),
        num_frames=_positive("num_frames", record, int),
        source=source,
    )


def _paths(name: str, record: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    value = record.get(name)
    if value in (None, ""):
        return {}
    if isinstance(value, Mapping):
        return {str(kind): _path(f"{name}.{kind}", one, folder) for kind, one in value.items()}
    return {"": _path(name, value, folder)}


def _path(name: str, value: Any, folder: Path) -> Path:
    if not isinstance(value, str):
        raise ValueError(f"`{name}` must be a path in quotes, but is {value!r}.")
    return folder / Path(value).expanduser()


def _positive(name: str, record: Mapping[str, Any], kind: type) -> Any:
    value = record.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"`{name}` must be a number above 0, but is {value!r}.")
    if kind is int and value != int(value):
        raise ValueError(f"`{name}` must be a whole number, but is {value!r}.")
    return kind(value)


def entry_of_arrays(embeddings: Any, labels: Any, *, name: str) -> EmbeddingEntry:
    """A sequence in memory: embeddings (frames, dim), and labels, a group of labels by kind, or None."""
    if labels is None:
        labels = {}
    elif not isinstance(labels, Mapping):
        labels = {"": labels}
    return EmbeddingEntry(name=name, array=_as_numpy(embeddings), labels=labels)
