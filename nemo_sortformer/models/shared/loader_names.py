# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What validation and test loaders are called in the logs: after their file, or after its folder."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nemo.utils import model_utils
from omegaconf import DictConfig, ListConfig, open_dict

_SUFFIXES = re.compile(r"(\.(jsonl|json|yaml|yml|gz|tar))+$")


def loader_names(paths: Sequence[str]) -> list[str]:
    """Name loaders as NeMo does, by the file without `manifest` and `dataset`, but unlike each other.

    Where nothing is left of the file's name, as of `dev/manifest.jsonl`, which NeMo refuses, the folder names it.
    Loaders of one name get as many folders in front as tell them apart, and the same file given twice a number.

    Args:
        paths: of manifests or cuts.

    Returns:
        Prefixes for the names of values, each ending in an underscore.

    Example:
        >>> loader_names(["/data/dev/manifest.jsonl", "/data/test/manifest.jsonl", "ami-dev.jsonl"])
        ['dev_', 'test_', 'ami_dev_']
    """
    folders = [Path(path).resolve().parts[1:-1] for path in paths]
    stems = [_stem(path) for path in paths]
    names = list(stems)
    for depth in range(1, max(map(len, folders), default=0) + 1):
        counts = Counter(names)
        for i, name in enumerate(names):
            if not name or counts[name] > 1:
                names[i] = "_".join(filter(None, [*map(_clean, folders[i][-depth:]), stems[i]]))
    names = [name or "data" for name in names]
    return [f"{name}_" for name in _numbered(names)]


@contextmanager
def neutral_names(cfg: DictConfig | None) -> Iterator[list[str]]:
    """While NeMo sets up the loaders of one group of settings, keep it from naming them, and give their names.

    Args:
        cfg: the settings, e.g. under `validation_ds`. They are changed within the context only.

    Yields:
        One name per loader; none where the user has named them (`name`), or no files are given.
    """
    key = None if cfg is None or cfg.get("name") else model_utils.resolve_dataset_name_from_cfg(cfg)
    value = cfg.get(key) if cfg is not None and key is not None else None
    paths = [value] if isinstance(value, str) else value
    if not isinstance(paths, (list, ListConfig)) or not all(isinstance(path, str) for path in paths):
        yield []
        return
    before = "name" in cfg
    with open_dict(cfg):
        cfg.name = "loader" if isinstance(value, str) else ["loader"] * len(paths)
    try:
        yield loader_names(paths)
    finally:
        with open_dict(cfg):
            if before:
                cfg.name = None
            else:
                del cfg["name"]


def _stem(path: str) -> str:
    return _clean(_SUFFIXES.sub("", Path(path).name).replace("manifest", "").replace("dataset", ""))


def _clean(name: str) -> str:
    return re.sub(r"[-\s]+", "_", name).strip("_")


def _numbered(names: list[str]) -> list[str]:
    unlike: list[str] = []
    for name in names:
        fresh, number = name, 1
        while fresh in unlike or (number > 1 and fresh in names):
            number += 1
            fresh = f"{name}_{number}"
        unlike.append(fresh)
    return unlike
