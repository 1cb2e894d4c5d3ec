# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Names, shapes and types of the weights in a .nemo file, without their values and without running what it carries."""

from __future__ import annotations

import collections
import math
import os
import pickle
import zipfile
from dataclasses import dataclass
from typing import IO, Any

from nemo_sortformer.nemo_bridge.archive import WEIGHTS_NAME, NemoFileError, open_member


@dataclass(frozen=True)
class TensorInfo:
    """One weight."""

    shape: tuple[int, ...]
    dtype: str
    """As torch names it, e.g. ``float32``."""

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


def read_contents(path: str | os.PathLike[str]) -> dict[str, TensorInfo]:
    """List the weights of a .nemo file (or of a folder with its contents); their values are not read.

    PyTorch keeps names and shapes as a pickle. It is read by a reader that knows tensors and plain containers and
    refuses all else, so a file cannot make it run code.

    Raises:
        NemoFileError: the file cannot be read, holds no weights, or something other than weights.
    """
    with open_member(path, WEIGHTS_NAME) as file:
        if not zipfile.is_zipfile(file):
            return _from_old_format(path, file)
        file.seek(0)
        try:
            with zipfile.ZipFile(file) as archive:
                name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                with archive.open(name) as pickled:
                    content = _Reader(pickled).load()
        except NemoFileError:
            raise
        except Exception as error:  # a broken pickle can fail in any way
            raise NemoFileError(f"`{path}`: the weights in it cannot be read: {error!r}") from error
    return _tensors(content, path)


def _from_old_format(path: str | os.PathLike[str], file: IO[bytes]) -> dict[str, TensorInfo]:
    """Read what PyTorch wrote before version 1.6; the values are read as well, as they stand in between."""
    import torch

    file.seek(0)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise NemoFileError(f"`{path}`: the weights in it cannot be read: {reason}") from error
    return {
        name: TensorInfo(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for name, tensor in content.get("state_dict", content).items()
    }


def _tensors(content: Any, path: str | os.PathLike[str]) -> dict[str, TensorInfo]:
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise NemoFileError(
            f"`{path}`: `{WEIGHTS_NAME}` must hold weights by name, but is a {type(content).__name__}."
        )
    return {str(name): value for name, value in content.items() if isinstance(value, TensorInfo)}


class _Reader(pickle.Unpickler):
    """Rebuilds containers, and a :class:`TensorInfo` where there was a tensor."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor"):
            return _rebuild_tensor
        if module == "torch._utils" and name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
            return _first
        if (module, name) == ("torch._utils", "_rebuild_tensor_v3"):
            return _rebuild_tensor_of_type
        if module == "torch" and name.endswith("Storage"):
            return _STORAGE_DTYPES.get(name, name.removesuffix("Storage").lower())
        if module == "torch" and name.startswith(("float", "bfloat", "int", "uint", "complex", "bool")):
            return name  # a type
        if (module, name) == ("torch.storage", "UntypedStorage"):
            return "uint8"
        raise NemoFileError(f"The weights refer to `{module}.{name}`, which is no tensor and no plain container.")

    def persistent_load(self, pid: Any) -> Any:
        return pid[1]  # ("storage", its type, key, place, number of values)


_STORAGE_DTYPES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}


def _rebuild_tensor(storage: Any, offset: int, shape: Any, *_: Any) -> TensorInfo:
    return TensorInfo(tuple(int(size) for size in shape), str(storage))


def _rebuild_tensor_of_type(storage: Any, offset: int, shape: Any, stride: Any, *rest: Any) -> TensorInfo:
    return TensorInfo(tuple(int(size) for size in shape), str(rest[2]))  # behind requires_grad and hooks


def _first(value: Any, *_: Any) -> Any:
    return value
