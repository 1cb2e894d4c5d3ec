# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""From the configuration of a data set with words to a ``DataLoader`` of joint batches."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader

from nemo_sortformer.data.joint_batch import collate_joint
from nemo_sortformer.data.loaders import EpochSampler, dataset_options, lhotse_loader, shuffles, worker_options
from nemo_sortformer.data.text_labels import TextLabeler

if TYPE_CHECKING:
    from nemo_sortformer.config.joint_data import JointDatasetConfig
    from nemo_sortformer.data.speaker_tokenizer import SpeakerTokenizer
    from nemo_sortformer.functional.serialized import Level

__all__ = ["build_joint_loader"]


def build_joint_loader(
    config: JointDatasetConfig,
    *,
    tokenizers: Mapping[str, SpeakerTokenizer],
    levels: Mapping[str, Level] | None = None,
    fields: Mapping[str, str] | None = None,
    num_slots: int,
    subsampling: int,
    rank: int = 0,
    world_size: int = 1,
    training: bool = False,
) -> DataLoader[Any]:
    """Build the loader of ``JointBatch``es: of a manifest with words, lhotse cuts, or sessions mixed on the fly.

    All ranks get equally many batches, as with the loader of the diarizer.

    Args:
        config: where the data come from, and how they are cut and batched.
        tokenizers: by name of the text head.
        levels: ``word`` or ``segment`` by head, how its text is serialized; ``segment`` where it is not given.
        fields: which text of the data each head learns; `config.text_fields` goes before it.
        num_slots: columns of the targets.
        subsampling: hops of 10 ms per target frame.
        rank: number of this process, in [0, world_size).
        world_size: how many processes work together.
        training: draw random windows, and shuffle unless `config.shuffle` says otherwise.

    Raises:
        ValueError: `config` names no source.
    """
    labeler = TextLabeler(
        tokenizers,
        num_slots,
        levels=levels,
        fields={**(fields or {}), **config.text_fields},
        unknown_text=config.unknown_text,
        keep_earliest_speakers=config.keep_earliest_speakers,
    )
    workers = worker_options(config, partial(collate_joint, pad_ids=labeler.pad_ids))
    options = dataset_options(config, num_slots, subsampling)
    if config.source == "utterances":
        return _utterance_loader(config, labeler, workers, subsampling, rank, world_size, training)
    if config.source == "cuts":
        from nemo_sortformer.data.joint_lhotse import LhotseJointDataset

        cuts = LhotseJointDataset(labeler, **options)
        return lhotse_loader(config, cuts, rank=rank, world_size=world_size, training=training)
    if config.source is None:
        raise ValueError(
            "A data set needs a source: set `manifest_filepath` (with words), `cuts_path` or `lhotse` (supervisions "
            "with text), or `utterances` (single speakers with text, to mix)."
        )
    from nemo_sortformer.data.joint_dataset import JointDataset

    dataset = JointDataset(
        config.manifest_filepath or [],
        labeler,
        session_len_sec=config.session_len_sec,
        training=training,
        seed=config.seed,
        **options,
    )
    sampler = EpochSampler(
        dataset, num_replicas=world_size, rank=rank, shuffle=shuffles(config, training), seed=config.seed
    )
    return DataLoader(dataset, sampler=sampler, drop_last=config.drop_last, **workers)


def _utterance_loader(
    config: JointDatasetConfig,
    labeler: TextLabeler,
    workers: dict[str, Any],
    subsampling: int,
    rank: int,
    world_size: int,
    training: bool,
) -> DataLoader[Any]:
    from nemo_sortformer.data.mixing.utterances import UtteranceMixingDataset

    dataset = UtteranceMixingDataset(
        config.utterances or {}, labeler, subsampling=subsampling, seed=config.seed, rank=rank, world_size=world_size
    )
    loader = DataLoader(dataset, drop_last=config.drop_last, **workers)
    if training:  # validation keeps its sessions; Lightning tells the number of the epoch to samplers only
        loader.sampler.set_epoch = dataset.set_epoch
    return loader
