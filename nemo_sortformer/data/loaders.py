# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""From a data set's configuration to a ``DataLoader`` of batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from nemo_sortformer.data.batch import DiarizationBatch, collate
from nemo_sortformer.data.dataset import DiarizationDataset

if TYPE_CHECKING:
    from nemo_sortformer.config.data import DatasetConfig

__all__ = [
    "EpochSampler",
    "build_loader",
    "dataset_options",
    "lhotse_loader",
    "lhotse_settings",
    "shuffles",
    "worker_options",
]

_STREAMED = ("tarred_audio_filepaths", "shar_path")


class EpochSampler(DistributedSampler):
    """Shares the items among the ranks, and passes the number of the epoch on to the data set.

    Lightning calls `set_epoch` of samplers, not of data sets. It leaves samplers of this kind as they are.
    """

    def set_epoch(self, epoch: int) -> None:
        """Shuffle, and draw windows, for this epoch."""
        super().set_epoch(epoch)
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)


def build_loader(
    cfg: DatasetConfig,
    *,
    num_slots: int,
    subsampling: int,
    rank: int = 0,
    world_size: int = 1,
    training: bool = False,
) -> DataLoader[DiarizationBatch]:
    """Build the loader of a data source: a manifest, lhotse cuts, or conversations mixed on the fly.

    All ranks get equally many batches. With several ranks this means that a few items of a manifest come twice where
    their number is not a multiple of the number of ranks.

    Args:
        cfg: where the data come from, and how they are cut and batched.
        num_slots: columns of the targets.
        subsampling: hops of 10 ms per target frame.
        rank: number of this process, in [0, world_size).
        world_size: how many processes work together.
        training: draw random windows, and shuffle unless `cfg.shuffle` says otherwise.

    Raises:
        ValueError: `cfg` names no source.
    """
    mixing = getattr(cfg, "mixing", None)
    if mixing is not None:
        return _mixing_loader(cfg, num_slots, subsampling, rank, world_size, training)
    if cfg.cuts_path or cfg.use_lhotse or cfg.lhotse:
        from nemo_sortformer.data.lhotse_dataset import LhotseDiarizationDataset

        dataset = LhotseDiarizationDataset(**dataset_options(cfg, num_slots, subsampling))
        return lhotse_loader(cfg, dataset, rank=rank, world_size=world_size, training=training)
    if not cfg.manifest_filepath:
        raise ValueError(
            "A data set needs a source: set `manifest_filepath` (with RTTM), `cuts_path` (lhotse), `lhotse` "
            "(`input_cfg`, `shar_path` ...) or `mixing`."
        )
    return _manifest_loader(cfg, num_slots, subsampling, rank, world_size, training)


def _manifest_loader(
    cfg: DatasetConfig, num_slots: int, subsampling: int, rank: int, world_size: int, training: bool
) -> DataLoader[DiarizationBatch]:
    dataset = DiarizationDataset(
        cfg.manifest_filepath,
        session_len_sec=cfg.session_len_sec,
        training=training,
        seed=cfg.seed,
        **dataset_options(cfg, num_slots, subsampling),
    )
    sampler = EpochSampler(
        dataset, num_replicas=world_size, rank=rank, shuffle=shuffles(cfg, training), seed=cfg.seed, drop_last=False
    )
    return DataLoader(
        dataset, sampler=sampler, drop_last=getattr(cfg, "drop_last", False), **worker_options(cfg, collate)
    )


def _mixing_loader(
    cfg: DatasetConfig, num_slots: int, subsampling: int, rank: int, world_size: int, training: bool
) -> DataLoader[DiarizationBatch]:
    from nemo_sortformer.config.merge import from_cfg
    from nemo_sortformer.config.mixing import MixingConfig
    from nemo_sortformer.data.mixing import MixingDataset

    mixing = cfg.mixing if isinstance(cfg.mixing, MixingConfig) else from_cfg(MixingConfig, cfg.mixing)
    dataset = MixingDataset(
        mixing, num_slots=num_slots, subsampling=subsampling, seed=cfg.seed, rank=rank, world_size=world_size
    )
    loader = DataLoader(dataset, drop_last=getattr(cfg, "drop_last", False), **worker_options(cfg, collate))
    if training:  # validation keeps its conversations
        # A stream has no sampler of ours, but Lightning tells the number of the epoch to nobody else.
        loader.sampler.set_epoch = dataset.set_epoch
    return loader


def lhotse_loader(
    cfg: DatasetConfig, dataset: Dataset[Any], *, rank: int, world_size: int, training: bool
) -> DataLoader[Any]:
    """Build NeMo's lhotse loader around a data set that turns cuts into a batch."""
    from nemo.collections.common.data.lhotse import get_lhotse_dataloader_from_config
    from omegaconf import OmegaConf

    return get_lhotse_dataloader_from_config(
        config=OmegaConf.create(lhotse_settings(cfg, training=training)),
        global_rank=rank,
        world_size=world_size,
        dataset=dataset,
    )


def lhotse_settings(cfg: DatasetConfig, *, training: bool) -> dict[str, Any]:
    """The configuration for NeMo's lhotse loader; what `cfg.lhotse` says goes before everything derived here.

    `session_len_sec` becomes random truncation in training and windows otherwise. The order is a function of
    `seed`, where NeMo's own default is a new order in every run.
    """
    given = dict(cfg.lhotse or {})
    settings: dict[str, Any] = {
        "manifest_filepath": cfg.manifest_filepath,
        "cuts_path": cfg.cuts_path,
        "shuffle": shuffles(cfg, training),
        "num_workers": cfg.num_workers,
        "pin_memory": _pins(cfg),
        "sample_rate": getattr(cfg, "sample_rate", 16000),
        "drop_last": getattr(cfg, "drop_last", False),
        "seed": cfg.seed,
        "shard_seed": "randomized" if _is_streamed(given) else cfg.seed,
        "force_finite": not training,
    }
    if not {"batch_duration", "bucket_batch_size"} & given.keys():
        settings["batch_size"] = cfg.batch_size
    if cfg.session_len_sec:
        settings["truncate_duration" if training else "cut_into_windows_duration"] = cfg.session_len_sec
    return {key: value for key, value in {**settings, **given}.items() if value is not None}


def _is_streamed(config: Any) -> bool:
    """Whether every worker reads the shards itself; then each needs an order of its own, derived from the seed."""
    if isinstance(config, dict):
        streamed = any(config.get(key) for key in (*_STREAMED, "force_iterable_dataset"))
        return streamed or any(_is_streamed(value) for value in config.values())
    if isinstance(config, Iterable) and not isinstance(config, str):
        return any(_is_streamed(value) for value in config)
    return False


def dataset_options(cfg: DatasetConfig, num_slots: int, subsampling: int) -> dict[str, Any]:
    """Give the arguments that the data sets of recordings share."""
    soft = getattr(cfg, "soft_targets", False)
    return {
        "num_slots": num_slots,
        "subsampling": subsampling,
        "sample_rate": getattr(cfg, "sample_rate", 16000),
        "max_failed_share": cfg.max_failed_share,
        "threshold": None if soft else getattr(cfg, "soft_label_thres", 0.5),
        "keep_earliest_speakers": getattr(cfg, "keep_earliest_speakers", False),
    }


def worker_options(cfg: DatasetConfig, collate_fn: Callable[..., Any]) -> dict[str, Any]:
    """Give the arguments of a ``DataLoader`` that every source shares."""
    return {
        "batch_size": cfg.batch_size,
        "collate_fn": collate_fn,
        "num_workers": cfg.num_workers,
        "pin_memory": _pins(cfg),
        "persistent_workers": cfg.num_workers > 0,
    }


def shuffles(cfg: DatasetConfig, training: bool) -> bool:
    """Whether the items come in a new order every epoch."""
    return training if cfg.shuffle is None else bool(cfg.shuffle)


def _pins(cfg: DatasetConfig) -> bool:
    return torch.cuda.is_available() if cfg.pin_memory is None else bool(cfg.pin_memory)
