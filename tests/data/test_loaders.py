# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Loaders: which source is taken, and that ranks and epochs share the items out."""

from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from lightning.fabric.utilities.data import _set_sampler_epoch

from nemo_sortformer.data.loaders import EpochSampler, build_loader, lhotse_settings
from nemo_sortformer.data.rttm import write_rttm
from nemo_sortformer.data.segment import Segment


def config(**keys):
    from nemo_sortformer.config.data import DatasetConfig

    return DatasetConfig(**keys)


@pytest.fixture
def manifest(tmp_path):
    lines = []
    for number in range(5):
        # The mean of the samples tells the recordings apart.
        soundfile.write(tmp_path / f"{number}.wav", np.full(16000, number / 10), 16000, subtype="FLOAT")
        write_rttm(tmp_path / f"{number}.rttm", [Segment(0.1, 0.1 + 0.15 * (number + 1), "ann")], str(number))
        lines.append(f'{{"audio_filepath": "{number}.wav", "duration": 1.0, "rttm_filepath": "{number}.rttm"}}\n')
    path = tmp_path / "manifest.jsonl"
    path.write_text("".join(lines))
    return str(path)


def numbers(loader):
    return [round(float(row.mean()) * 10) for batch in loader for row in batch.audio]


def test_a_manifest_gives_batches_in_order_unless_training(manifest):
    loader = build_loader(config(manifest_filepath=manifest, batch_size=2), num_slots=3, subsampling=8)
    batches = list(loader)
    assert [len(batch.audio) for batch in batches] == [2, 2, 1]
    assert numbers(loader) == [0, 1, 2, 3, 4]
    assert batches[0].targets.shape == (2, 13, 3)
    assert batches[0].target_lengths.tolist() == [13, 13]


def test_training_shuffles_anew_in_each_epoch_and_the_same_in_each_run(manifest):
    def order(seed, epoch):
        loader = build_loader(config(manifest_filepath=manifest, seed=seed), num_slots=4, subsampling=8, training=True)
        _set_sampler_epoch(loader, epoch)  # what Lightning does at the start of an epoch
        assert loader.dataset.epoch == epoch
        return numbers(loader)

    orders = [tuple(order(0, epoch)) for epoch in range(4)]
    assert all(sorted(one) == [0, 1, 2, 3, 4] for one in orders)
    assert len(set(orders)) > 1
    assert order(0, 0) == list(orders[0])
    unshuffled = config(manifest_filepath=manifest, shuffle=False)
    assert numbers(build_loader(unshuffled, num_slots=4, subsampling=8, training=True)) == [0, 1, 2, 3, 4]


def test_ranks_share_the_items_and_keep_step(manifest):
    ranks = [
        numbers(build_loader(config(manifest_filepath=manifest), num_slots=4, subsampling=8, rank=rank, world_size=2))
        for rank in (0, 1)
    ]
    assert [len(rank) for rank in ranks] == [3, 3]
    assert set(ranks[0]) | set(ranks[1]) == {0, 1, 2, 3, 4}


def test_lightning_leaves_the_sampler_as_it_is(manifest):
    loader = build_loader(config(manifest_filepath=manifest), num_slots=4, subsampling=8)
    assert isinstance(loader.sampler, EpochSampler)
    assert isinstance(loader.sampler, torch.utils.data.distributed.DistributedSampler)


def test_subsampling_and_soft_targets_reach_the_targets(manifest):
    four = next(iter(build_loader(config(manifest_filepath=manifest, batch_size=5), num_slots=2, subsampling=4)))
    assert four.targets.shape == (5, 25, 2)
    soft = config(manifest_filepath=manifest, batch_size=5, soft_targets=True)
    targets = next(iter(build_loader(soft, num_slots=2, subsampling=8))).targets
    assert ((targets > 0) & (targets < 1)).any()


def test_mixing_gives_a_new_epoch_to_lightning_in_training_only(monkeypatch):
    import nemo_sortformer.data.mixing as mixing
    from nemo_sortformer.config.mixing import MixingConfig

    class Conversations(torch.utils.data.IterableDataset):
        def __init__(self, cfg, **kwargs):
            self.kwargs, self.epoch = kwargs, 0

        def set_epoch(self, epoch):
            self.epoch = epoch

        def __iter__(self):
            return iter(())

    monkeypatch.setattr(mixing, "MixingDataset", Conversations)
    cfg = SimpleNamespace(mixing=MixingConfig(), seed=3, batch_size=2, num_workers=0, pin_memory=False)
    loader = build_loader(cfg, num_slots=4, subsampling=8, rank=1, world_size=2, training=True)
    assert loader.dataset.kwargs == {"num_slots": 4, "subsampling": 8, "seed": 3, "rank": 1, "world_size": 2}
    _set_sampler_epoch(loader, 5)
    assert loader.dataset.epoch == 5
    assert not hasattr(build_loader(cfg, num_slots=4, subsampling=8).sampler, "set_epoch")


def test_no_source_is_an_error():
    with pytest.raises(ValueError, match="set `manifest_filepath`"):
        build_loader(config(), num_slots=4, subsampling=8)


def test_the_settings_for_lhotse(manifest):
    cfg = config(manifest_filepath=manifest, use_lhotse=True, session_len_sec=20.0, seed=4, batch_size=3)
    settings = lhotse_settings(cfg, training=True)
    assert (settings["truncate_duration"], settings["shard_seed"], settings["batch_size"]) == (20.0, 4, 3)
    assert settings["shuffle"] is True
    validation = lhotse_settings(cfg, training=False)
    assert (validation["cut_into_windows_duration"], validation["shuffle"]) == (20.0, False)
    cfg.lhotse = {"batch_duration": 100, "input_cfg": [{"type": "group", "input_cfg": [{"shar_path": "x"}]}]}
    settings = lhotse_settings(cfg, training=True)
    assert "batch_size" not in settings
    assert settings["shard_seed"] == "randomized"  # every worker reads the shards: each needs its own order


@pytest.mark.slow
def test_lhotse_gives_the_same_batch_as_the_manifest(manifest):
    kwargs = {"num_slots": 3, "subsampling": 8}
    native = next(iter(build_loader(config(manifest_filepath=manifest, batch_size=5), **kwargs)))
    lhotse = next(iter(build_loader(config(manifest_filepath=manifest, batch_size=5, use_lhotse=True), **kwargs)))
    assert type(native) is type(lhotse)
    for one, other in zip(native, lhotse, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
