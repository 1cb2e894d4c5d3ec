# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints of any layout, readable by any other: in one file, or each process its parts; whole or not there."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from nemo.utils import logging
from nemo.utils.callbacks.nemo_model_checkpoint import NeMoModelCheckpoint
from torch import Tensor, nn
from torch.optim import Optimizer

from nemo_sortformer.distributed import atomic_files, tensors
from nemo_sortformer.distributed.atomic_files import PARTIAL

KEY = "nemo_sortformer"
"""Where a checkpoint keeps what is ours; Lightning's and NeMo's entries are as always."""
_FOLDER_SUFFIX = ".shards"
_LAST = "-last.ckpt"


class CheckpointError(ValueError):
    """A checkpoint cannot be written or read."""


def save_one_file(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint that process 0 holds whole; all processes must call this.

    Raises:
        CheckpointError: process 0 could not write it; on all processes.
    """
    _on_first(lambda: _write(checkpoint, path), f"The checkpoint `{path}` cannot be written")


def save_shards(checkpoint: dict[str, Any], parts: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Write a checkpoint of which each process holds parts; all processes must call this.

    The parts go to a new folder beside that of `path`. Last of all the file `path`, which names the folder and holds
    the rest, takes the place of the one before.

    Raises:
        CheckpointError: a process could not write its parts, or process 0 the file; on all processes.
    """
    home = path.parent.with_name(path.parent.name + _FOLDER_SUFFIX)
    name = _from_first(f"{path.stem}-{uuid.uuid4().hex[:8]}")
    aside = home / (name + PARTIAL + "0")
    _on_first(lambda: aside.mkdir(parents=True), f"The folder `{aside}` cannot be made")
    try:
        dcp.save({kind: dict(values) for kind, values in parts.items()}, checkpoint_id=aside)
    except Exception as error:
        raise CheckpointError(f"The parts of the checkpoint `{path}` cannot be written: {error}") from error

    def finish() -> None:
        aside.rename(home / name)
        atomic_files.sync_folder(home)
        checkpoint[KEY]["shards"] = str(Path("..") / home.name / name)
        _write(checkpoint, path)

    _on_first(finish, f"The checkpoint `{path}` cannot be written")


def _write(checkpoint: dict[str, Any], path: Path) -> None:
    before = _predecessor(path)
    old_shards = {_shards_of(old) for old in {path, before} if old is not None and old.exists()}
    aside = atomic_files.write_aside(path, lambda file: torch.save(checkpoint, file))
    # The file comes whole or not at all, so that NeMo's sign of an unfinished one would only make it be thrown away.
    NeMoModelCheckpoint.remove_checkpoint_unfinished_marker(path)
    atomic_files.commit(aside, path, instead_of=before)
    for folder in old_shards - {None}:
        shutil.rmtree(folder, ignore_errors=True)


def _predecessor(path: Path) -> Path | None:
    """The last checkpoint so far, where `path` is to be the last one. NeMo resumes only where there is just one."""
    if not path.name.endswith(_LAST):
        return None
    prefix = path.name.partition("--")[0]
    older = [one for one in path.parent.glob(f"*{_LAST}") if one.name.partition("--")[0] == prefix and one != path]
    return max(older, key=lambda one: one.stat().st_mtime, default=None)


def _shards_of(path: Path) -> Path | None:
    """The folder that a checkpoint file names; None for one that holds all by itself, or is no checkpoint."""
    if path.stat().st_size > 2**26:  # one that names a folder is small
        return None
    try:
        named = torch.load(path, map_location="cpu", weights_only=False).get(KEY, {}).get("shards")
    except Exception:
        return None
    return None if named is None else (path.parent / named).resolve()


def remove(path: Path) -> None:
    """Remove a checkpoint with all its parts; none is no error. For process 0 only."""
    if path.is_file():
        shards = _shards_of(path)
        path.unlink()
        if shards is not None:
            shutil.rmtree(shards, ignore_errors=True)


def clean_up(folder: Path) -> None:
    """Remove what killed runs left in a folder of checkpoints: halves, and parts that no checkpoint names."""
    found = atomic_files.remove_leftovers(folder)
    home = folder.with_name(folder.name + _FOLDER_SUFFIX)
    if home.is_dir():
        named = {_shards_of(path) for path in folder.glob("*.ckpt") if path.is_file()}
        for shards in home.iterdir():
            if shards.resolve() not in named:
                shutil.rmtree(shards, ignore_errors=True)
                found.append(shards)
    if found:
        logging.info(f"Removed {len(found)} half-written checkpoints, the first is `{found[0]}`.")


def load(
    path: Path, model: nn.Module, optimizers: Sequence[Optimizer], extra: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, Any]:
    """Bring a checkpoint of any layout, also one of Lightning's own, into a divided model.

    Args:
        path: on a file system that all processes see.
        model: whose weights to set.
        optimizers: whose states to set; none outside training.
        extra: further groups of tensors by name, to be filled in place if the checkpoint has them.

    Returns:
        The checkpoint without its tensors.

    Raises:
        CheckpointError: it is missing, unreadable, or of another model.
    """
    if not path.is_file():
        raise CheckpointError(f"The checkpoint `{path}` does not exist, or is no file.")
    try:
        checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=False)
    except Exception as error:
        raise CheckpointError(f"`{path}` is no checkpoint, or is truncated: {error}") from error
    names = tensors.parameter_names(model)
    ours = checkpoint.setdefault(KEY, {})
    if "shards" in ours:
        parts = _read_shards((path.parent / ours["shards"]).resolve(), model, optimizers, extra)
        groups = ours.pop("optimizer_groups")
    else:
        parts = {"model": checkpoint.pop("state_dict"), **ours.pop("extra", {})}
        states = checkpoint.pop("optimizer_states", [])
        groups = [state["param_groups"] for state in states]
        for index, (optimizer, state) in enumerate(zip(optimizers, states)):
            parts[f"optimizer_{index}"] = _by_name(state, optimizer, names)
    _set_weights(model, parts["model"], path)
    for index, (optimizer, saved) in enumerate(zip(optimizers, groups)):
        missing = tensors.fill_optimizer(optimizer, names, parts[f"optimizer_{index}"])
        tensors.set_hyperparameters(optimizer, saved)
        if missing and parts[f"optimizer_{index}"]:
            logging.info(f"The optimizer starts anew for {len(missing)} parameters, the first is `{missing[0]}`.")
    for kind, group in extra.items():
        given = parts.get(kind) or parts["model"]  # what the checkpoint has no averages for begins with its weights
        for name, target in group.items():
            if given[name] is not target:  # parts are read in place
                tensors.copy_whole(given[name], target)
    return checkpoint


def _set_weights(model: nn.Module, given: Mapping[str, Any], path: Path) -> None:
    own = model.state_dict()
    if own.keys() != given.keys():
        different = sorted(own.keys() ^ given.keys())
        raise CheckpointError(
            f"`{path}` is a checkpoint of another model: {len(different)} names are in one of them only, e.g. "
            f"`{different[0]}`."
        )
    for name, target in own.items():
        if target.shape != given[name].shape:
            raise CheckpointError(
                f"`{path}` is a checkpoint of another model: `{name}` has the shape {tuple(given[name].shape)} "
                f"there and {tuple(target.shape)} here."
            )
        tensors.copy_whole(given[name], target)


def _by_name(state: Mapping[str, Any], optimizer: Optimizer, names: Mapping[int, str]) -> dict[str, Any]:
    """An optimizer's state as torch saves it, numbered by parameter, under `parameter/kind`."""
    saved = [number for group in state["param_groups"] for number in group["params"]]
    here = [names[id(one)] for group in optimizer.param_groups for one in group["params"]]
    if len(saved) != len(here):
        raise CheckpointError(f"The optimizer has {len(here)} parameters, but {len(saved)} in the checkpoint.")
    name_of = dict(zip(saved, here))
    return {
        f"{name_of[number]}/{kind}": value
        for number, values in state["state"].items()
        for kind, value in values.items()
    }


def numbered(named: Mapping[str, Any], groups: list[dict[str, Any]]) -> dict[str, Any]:
    """An optimizer's state as torch saves it, out of one under `parameter/kind`: the reverse of what loading does."""
    order = [name for group in groups for name in group["params"]]
    number_of = {name: number for number, name in enumerate(order)}
    state: dict[int, dict[str, Any]] = {}
    for key, value in named.items():
        name, _, kind = key.rpartition("/")
        state.setdefault(number_of[name], {})[kind] = value
    numbers = [group | {"params": [number_of[name] for name in group["params"]]} for group in groups]
    return {"state": state, "param_groups": numbers}


def _read_shards(
    folder: Path, model: nn.Module, optimizers: Sequence[Optimizer], extra: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, Any]:
    reader = dcp.FileSystemReader(folder)
    try:
        saved = reader.read_metadata().state_dict_metadata
    except Exception as error:
        raise CheckpointError(f"The parts of a checkpoint in `{folder}` cannot be read: {error}") from error
    parameters = dict(model.named_parameters())
    wanted: dict[str, Any] = {"model": model.state_dict()}
    for index, _ in enumerate(optimizers):
        prefix = f"optimizer_{index}."
        found = {key.removeprefix(prefix): entry for key, entry in saved.items() if key.startswith(prefix)}
        wanted[prefix[:-1]] = {key: _empty(key, entry, parameters) for key, entry in found.items()}
    for kind, group in extra.items():
        if any(key.startswith(f"{kind}.") for key in saved):
            wanted[kind] = dict(group)
    missing = [name for name in wanted["model"] if f"model.{name}" not in saved]
    if missing:
        raise CheckpointError(f"`{folder}` is of another model: it lacks `{missing[0]}`.")
    dcp.load(wanted, storage_reader=reader)
    return wanted


def _empty(key: str, entry: Any, parameters: Mapping[str, Tensor]) -> Any:
    """Room for one value of an optimizer's state, divided as the parameter is."""
    like = parameters[key.rpartition("/")[0]]
    if not hasattr(entry, "size"):
        return None
    if entry.size == like.shape and len(entry.size):
        return torch.zeros_like(like, dtype=entry.properties.dtype)
    return torch.zeros(entry.size, dtype=entry.properties.dtype)


def _from_first(value: Any) -> Any:
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def _on_first(act: Any, trouble: str) -> None:
    """Let process 0 act while the others wait, and stop all of them where it fails."""
    error: BaseException | None = None
    if dist.get_rank() == 0:
        try:
            act()
        except Exception as raised:
            error = raised
    text = _from_first(None if error is None else str(error))
    if text is not None:
        raise CheckpointError(f"{trouble}: {text}") from error
