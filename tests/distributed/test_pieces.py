# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What works without other processes: units of a model, the factor on a float16 loss, files, positions, averages."""

import itertools
import types

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lhotse import CutSet
from lhotse.testing.dummies import dummy_cut
from lightning.pytorch.strategies import StrategyRegistry
from nemo.collections.common.data.lhotse import get_lhotse_dataloader_from_config
from omegaconf import OmegaConf
from torch import nn
from torch.utils.data import DataLoader, IterableDataset
from torchmetrics import SumMetric

import nemo_sortformer
from nemo_sortformer.config import ConfigError
from nemo_sortformer.distributed import atomic_files, data_share, gradients, progress, recompute, units
from nemo_sortformer.distributed.loaders import Filler, rest_of, uncounted
from nemo_sortformer.distributed.precision import LossScale
from nemo_sortformer.distributed.sharding import _check_owners
from nemo_sortformer.distributed.weight_average import WeightAverage
from nemo_sortformer.models.shared.ranks import rank_weights
from nemo_sortformer.modules import SortformerEncoder, SpeakerHead
from nemo_sortformer.modules.attention_text_head import AttentionTextHead


class Small(nn.Module):
    """An encoder and two heads."""

    def __init__(self):
        super().__init__()
        self.encoder = SortformerEncoder(num_layers=2, hidden_size=8, inner_size=8, num_labels=2, conv_kernel=3)
        self.head = SpeakerHead(fc_d_model=4, tf_d_model=8, num_spks=2)
        self.recurrent = nn.LSTM(8, 4)
        self.activation = nn.ReLU()


def test_the_public_name_of_a_model_brings_the_strategy():
    assert nemo_sortformer.SortformerDiarizer is not None
    assert "nemo_sortformer" in StrategyRegistry


def test_every_parameter_belongs_to_one_unit():
    model = Small()
    stacks = list(units.encoders(model))
    heads = list(units.head_parts(model))
    assert [name for name, _ in stacks] == ["encoder"]
    assert len(units.layers(model.encoder)) == 2
    assert units.entries(model.encoder) == ["forward_with_labels"]
    assert {name for name, _ in heads} >= {"head.encoder_proj", "head.single_hidden_to_spks", "recurrent"}
    found = [id(p) for _, module in [*stacks, *heads] for p in module.parameters()]
    assert sorted(found) == sorted(id(p) for p in model.parameters())


def test_parameters_without_a_module_of_their_own_are_refused():
    model = Small()
    model.scale = nn.Parameter(torch.ones(1))
    with pytest.raises(ConfigError, match="it has `scale`"):
        _check_owners(model)
    model = Small()
    model.head.first_hidden_to_hidden.weight = model.encoder.layers[0].attention.query_net.weight
    with pytest.raises(ConfigError, match=r"`head.first_hidden_to_hidden.weight` and `encoder.*` are the same"):
        _check_owners(model)


def test_a_head_that_writes_token_by_token_is_one_unit_though_it_shares_weights():
    model = Small()
    model.text = nn.ModuleDict({"words": AttentionTextHead(8, 6, bos_id=3, eos_id=4, pad_id=5, num_layers=1)})
    assert [name for name, _ in units.writers(model)] == ["text.words"]
    assert [name for name, _ in units.stacks(model)] == ["encoder"]
    assert [name for name, _ in units.encoders(model)] == ["encoder", "text.words.transf_decoder._decoder"]
    assert [name for name, _ in units.head_parts(model) if "text" in name] == ["text.words"]
    assert units.entries(model.text["words"]) == ["generate"]
    _check_owners(model)
    model.recurrent.weight = model.text["words"].transf_decoder.embedding.token_embedding.weight
    with pytest.raises(ConfigError, match=r"`text.words.*weight` and `recurrent.weight` are the same"):
        _check_owners(model)


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 5))
def test_the_factor_is_halved_at_each_overflow_and_doubled_after_good_steps(steps, interval):
    scale = LossScale(1024.0, interval)
    for finite in steps:
        scale.update(finite)
    runs = [len(list(group)) for finite, group in itertools.groupby(steps) if finite]
    doublings = sum(length // interval for length in runs)
    assert scale.scale == 1024.0 * 2.0 ** (doublings - steps.count(False))
    assert scale.skipped_steps == steps.count(False)
    other = LossScale(1.0, interval)
    other.load_state_dict(scale.state_dict())
    assert other.state_dict() == scale.state_dict()


def test_norm_and_clipping_are_those_of_torch_in_one_process():
    generator = torch.Generator().manual_seed(0)
    ours = [nn.Parameter(torch.zeros(3, 4)), nn.Parameter(torch.zeros(0)), nn.Parameter(torch.zeros(5))]
    for parameter in ours:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    for parameter, twin in zip(ours, theirs):
        twin.grad = parameter.grad.clone()
    wanted = torch.nn.utils.clip_grad_norm_(theirs, 0.5)
    assert torch.isclose(gradients.clip_by_norm(ours, 0.5), wanted)
    for parameter, twin in zip(ours, theirs):
        torch.testing.assert_close(parameter.grad, twin.grad)
    ours[0].grad[0, 0] = float("nan")
    assert not torch.isfinite(gradients.global_norm(ours))


def test_a_killed_write_leaves_the_file_before(tmp_path):
    path = tmp_path / "a.ckpt"
    path.write_text("before")

    def fail(file):
        file.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        atomic_files.write_aside(path, fail)
    assert [one.name for one in tmp_path.iterdir()] == ["a.ckpt"]
    aside = atomic_files.write_aside(path, lambda file: file.write_text("after"))
    assert path.read_text() == "before", "until it is committed"
    assert atomic_files.remove_leftovers(tmp_path) == [aside]
    aside = atomic_files.write_aside(path, lambda file: file.write_text("after"))
    atomic_files.commit(aside, path)
    assert path.read_text() == "after"


def test_one_name_is_there_at_each_moment_of_a_succession(tmp_path, monkeypatch):
    old, new = tmp_path / "step=1-last.ckpt", tmp_path / "step=2-last.ckpt"
    old.write_text("1")
    seen = []
    replace = atomic_files.os.replace

    def watched(source, target):
        replace(source, target)
        seen.append(sorted((one.name, one.read_text()) for one in tmp_path.glob("*-last.ckpt")))

    monkeypatch.setattr(atomic_files.os, "replace", watched)
    atomic_files.commit(atomic_files.write_aside(new, lambda file: file.write_text("2")), new, instead_of=old)
    assert seen == [[("step=1-last.ckpt", "2")], [("step=2-last.ckpt", "2")]]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(10))


class Read(torch.utils.data.Dataset):
    """Notes what was read."""

    def __init__(self):
        self.read = []

    def __len__(self):
        return 10

    def __getitem__(self, index):
        self.read.append(index)
        return index


@pytest.mark.parametrize("options", [{"batch_size": 3}, {"batch_size": None, "sampler": range(9, -1, -1)}])
@pytest.mark.parametrize("start", [0, 2, 4])
def test_the_rest_of_a_loader_is_the_rest_and_nothing_before_is_read(options, start):
    everything = list(DataLoader(Read(), **options))
    dataset = Read()
    rest = list(rest_of(DataLoader(dataset, **options), start))
    assert [torch.as_tensor(one).tolist() for one in rest] == [torch.as_tensor(o).tolist() for o in everything[start:]]
    assert len(dataset.read) == sum(torch.as_tensor(one).numel() for one in rest)


def test_a_stream_is_run_through():
    assert torch.cat(list(rest_of(DataLoader(Stream(), batch_size=4), 1))).tolist() == [4, 5, 6, 7, 8, 9]


def test_what_is_uncounted_leaves_no_trace():
    model = nn.ModuleDict({"metric": SumMetric()})
    model["metric"].update(2.0)
    with uncounted(model):
        model["metric"].update(5.0)
    assert float(model["metric"].compute()) == 2.0
    assert Filler((torch.ones(1),)).to(torch.device("cpu")).batch[0].tolist() == [1.0]


@given(st.integers(0, 50), st.integers(1, 8), st.integers(1, 8))
def test_the_position_in_an_epoch_is_kept_in_items(batches, before, now):
    names = ("ready", "started", "processed", "completed")
    current = types.SimpleNamespace(**dict.fromkeys(names, batches))
    progress.recount(current, before=before, now=now)
    assert current.completed * now <= batches * before < (current.completed + 1) * now
    assert len({getattr(current, name) for name in names}) == 1


def counts(number, **behind):
    names = ("ready", "started", "processed", "completed")
    return dict.fromkeys(names, number) | {name: number - lag for name, lag in behind.items()}


@pytest.mark.parametrize(
    "case, batches, epochs, last, done, epoch",
    [
        ("after a batch", counts(3, completed=1), counts(1, processed=1, completed=1), False, 3, 0),
        ("in validation", counts(3), counts(1, processed=1, completed=1), False, 3, 0),
        ("at the last step, in an epoch", counts(3), counts(1), False, 3, 0),
        ("at the end of an epoch", counts(4), counts(1, completed=1), True, 4, 0),
        ("after an epoch", counts(4), counts(1), True, 0, 1),
    ],
)
def test_a_checkpoint_says_what_is_done(case, batches, epochs, last, done, epoch):
    progress_of = {"total": dict(batches), "current": dict(batches), "is_last_batch": last}
    epochs_of = {"total": dict(epochs), "current": dict(epochs)}
    loop = {"epoch_loop.batch_progress": progress_of, "epoch_progress": epochs_of}
    progress.correct_counts({"loops": {"fit_loop": loop}})
    assert progress_of["current"]["completed"] == done
    assert epochs_of["current"]["completed"] == epoch, case


def test_recomputed_layers_have_the_same_gradients_and_count_a_batch_once():
    def build():
        torch.manual_seed(0)
        model = nn.Module()
        layer = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.ReLU(), nn.Linear(4, 4))
        model.encoder = nn.Module()
        model.encoder.layers = nn.ModuleList([layer])
        return model, layer

    results = []
    for again in (False, True):
        model, layer = build()
        names = list(model.state_dict())
        if again:
            assert recompute.recompute_layers(model) == 1
            assert list(model.state_dict()) == names
        torch.manual_seed(1)
        layer(torch.randn(8, 4)).square().sum().backward()
        results.append([*(p.grad for p in model.parameters()), *model.buffers()])
    for plain, anew in zip(*results):
        assert torch.equal(plain, anew)


def test_the_average_follows_the_weights_and_changes_places_with_them():
    model = nn.Linear(2, 2)
    average = WeightAverage(0.75)
    average.start(model)
    first = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.add_(1.0)
    trainer = types.SimpleNamespace(global_step=1, precision_plugin=None)
    average.on_train_batch_end(trainer, model)
    average.on_train_batch_end(trainer, model)  # the same step once more, as while gradients are summed up
    torch.testing.assert_close(average.average["weight"], first + 0.25)
    average.swap(model)
    torch.testing.assert_close(model.weight.detach(), first + 0.25)
    average.swap(model)
    torch.testing.assert_close(model.weight.detach(), first + 1.0)


def test_one_process_weighs_its_losses_as_they_are():
    assert rank_weights(torch.tensor([3.0, 0.0])).tolist() == [1.0, 1.0]


def test_a_step_that_is_left_out_does_not_reach_the_average():
    model = nn.Linear(1, 1, bias=False)
    average = WeightAverage(0.5)
    average.start(model)
    for step, left_out in enumerate([False, True, False], start=1):
        with torch.no_grad():
            model.weight.add_(0.0 if left_out else 1.0)
        plugin = types.SimpleNamespace(left_out_step=left_out)
        trainer = types.SimpleNamespace(global_step=step, precision_plugin=plugin)
        average.on_train_batch_end(trainer, model, None, None, 0)
    first = float(model.weight.detach()) - 2.0
    assert float(average.average["weight"]) == pytest.approx(first + 0.5 * 0.5 + 0.5 * 2.0)


@pytest.fixture(scope="module")
def cuts(tmp_path_factory):
    """Cuts of unlike lengths, without audio."""
    path = tmp_path_factory.mktemp("cuts") / "cuts.jsonl"
    CutSet.from_cuts(dummy_cut(number, duration=1.0 + number % 3) for number in range(24)).to_file(path)
    return path


class Names(torch.utils.data.Dataset):
    """Which cuts are in a batch."""

    def __getitem__(self, cuts):
        return [cut.id for cut in cuts]


def lhotse_loader(cuts, rank, world_size, **settings):
    """What NeMo's models make."""
    common = {"cuts_path": str(cuts), "shuffle": True, "seed": 3, "shard_seed": 3, "num_workers": 0}
    cfg = OmegaConf.create(common | settings)
    return get_lhotse_dataloader_from_config(cfg, global_rank=rank, world_size=world_size, dataset=Names())


@pytest.mark.parametrize(
    "settings", [{"batch_size": 2}, {"batch_duration": 6, "use_bucketing": True, "num_buckets": 2}]
)
def test_neighbours_that_share_layers_read_the_same_cuts_from_the_lhotse_loader_of_nemo(cuts, settings):
    loaders = [lhotse_loader(cuts, rank, 4, **settings) for rank in range(4)]
    assert list(loaders[0]) != list(loaders[1]), "as NeMo makes them"
    loaders = [lhotse_loader(cuts, rank, 4, **settings) for rank in range(4)]
    for rank, loader in enumerate(loaders):
        data_share.read_data_share(loader, rank // 2, 2)
    data_share.refuse_unlike([data_share.describe_share(loader) for loader in loaders], 2)
    read = [list(loader) for loader in loaders]
    assert read[0] == read[1]
    assert read[2] == read[3]
    assert not {name for batch in read[0] for name in batch} & {name for batch in read[2] for name in batch}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([{"force_iterable_dataset": True}] * 2, "'worker rank': 1"),
        ([{"shard_seed": 1}, {"shard_seed": 2}], "'DynamicCutSampler 0 seed': 2"),
        ([{"shard_seed": "trng"}] * 2, "'DynamicCutSampler 0 seed': 'trng'"),
    ],
)
def test_neighbours_that_would_read_other_data_are_refused(cuts, changes, words):
    loaders = [lhotse_loader(cuts, rank, 2, batch_size=2, **change) for rank, change in enumerate(changes)]
    for loader in loaders:
        data_share.read_data_share(loader, 0, 1)
    with pytest.raises(ConfigError, match="`model.parallel.tensor_parallel_size: 2`") as error:
        data_share.refuse_unlike([data_share.describe_share(loader) for loader in loaders], 2)
    assert words in str(error.value)
    assert "the processes 0 and 1" in str(error.value)


def test_a_seed_that_orders_nothing_does_not_matter(cuts):
    loaders = [lhotse_loader(cuts, rank, 2, batch_size=2, shuffle=False, shard_seed="trng") for rank in range(2)]
    for loader in loaders:
        data_share.read_data_share(loader, 0, 1)
    data_share.refuse_unlike([data_share.describe_share(loader) for loader in loaders], 2)
    assert list(loaders[0]) == list(loaders[1])


def test_loaders_of_manifests_are_compared_too():
    sampler = torch.utils.data.DistributedSampler
    loaders = [DataLoader(range(8), sampler=sampler(range(8), num_replicas=2, rank=rank)) for rank in range(2)]
    with pytest.raises(ConfigError, match="DistributedSampler 0 rank"):
        data_share.refuse_unlike([data_share.describe_share(loader) for loader in loaders], 2)
