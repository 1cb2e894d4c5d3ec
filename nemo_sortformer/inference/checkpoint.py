# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Which model diarizes: the one that ships with the package, or a .nemo file of the user's."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

    from nemo_sortformer.models.diarizer.model import SortformerDiarizer
    from nemo_sortformer.models.labeler.model import SortformerLabeler

    ModelT = TypeVar("ModelT", SortformerDiarizer, SortformerLabeler)

SHIPPED = Path("checkpoints") / "sortformer_tiny.nemo"
"""Inside the package."""


def shipped_checkpoint() -> Path:
    """Where the shipped checkpoint lies. Neither torch nor NeMo is imported to find it.

    Raises:
        FileNotFoundError: this installation has none.
    """
    path = Path(str(files("nemo_sortformer"))) / SHIPPED
    if not path.is_file():
        raise FileNotFoundError(
            f"The checkpoint that ships with the package is not in this installation: `{path}` is missing. "
            "Install the package again, or name a .nemo file (`--model` on the command line)."
        )
    return path


def load_shipped(**options: Any) -> SortformerDiarizer:
    """Load the diarizer that ships with the package, ready for inference.

    Args:
        options: those of `SortformerDiarizer.restore_from`, e.g. `map_location`; by default NeMo takes a GPU where
            there is one.

    Raises:
        FileNotFoundError: this installation has none.
    """
    path = shipped_checkpoint()
    from nemo_sortformer.models.diarizer import SortformerDiarizer

    model: SortformerDiarizer = SortformerDiarizer.restore_from(str(path), **options).eval()
    return model


def load_model(model: str | Path | None = None, *, device: str | None = None) -> SortformerDiarizer:
    """Load a diarizer for inference.

    Args:
        model: a .nemo file of ours or of NeMo's `SortformerEncLabelModel`; None is the shipped one.
        device: `cpu`, `cuda`, `cuda:1`, ...; None takes a GPU where there is one.

    Raises:
        FileNotFoundError: `model` is None and nothing is shipped.
        ValueError: the file is missing, is no .nemo file, holds another kind of model, or the device is not there.
    """
    path, target = checked_file(shipped_checkpoint() if model is None else model, device)
    from nemo_sortformer.models.diarizer.model import SortformerDiarizer

    return _load(path, SortformerDiarizer, target)


def load_labeler(model: str | Path, *, device: str | None = None) -> SortformerLabeler:
    """Load a labeler for inference; arguments and errors as of :func:`load_model`, but none is shipped."""
    path, target = checked_file(model, device)
    from nemo_sortformer.models.labeler.model import SortformerLabeler

    return _load(path, SortformerLabeler, target)


def checked_file(model: str | Path, device: str | None, *, name: str = "model") -> tuple[Path, torch.device]:
    """The file and the device, before NeMo is imported, which takes seconds.

    Raises:
        ValueError: the file is missing, or the device is not there.
    """
    path = Path(model).expanduser()
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "is missing"
        raise ValueError(f"`{name}` must be a .nemo file, but `{path}` {found}.")
    import torch

    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if target.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"`device` is `{device}`, but this machine has no usable GPU. Take `cpu`.")
    return path, target


def _load(path: Path, kind: type[ModelT], target: torch.device) -> ModelT:
    restored = kind.restore_from(str(path), map_location=target)
    if not isinstance(restored, kind):
        raise ValueError(f"`{path}` holds a `{type(restored).__name__}`, which is no {kind.model_kind}.")
    return restored.to(target).eval()
