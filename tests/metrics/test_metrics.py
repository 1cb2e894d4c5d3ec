# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Metrics: rates by hand, no dependence on how recordings are grouped into batches, two ranks, NeMo's F1."""

import pytest
import torch
import torch.multiprocessing as mp
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from nemo_sortformer.functional.arrival import sort_by_arrival
from nemo_sortformer.metrics import DiarizationErrorRate, FrameF1, SpeakerCountAccuracy

ALL = [
    lambda: DiarizationErrorRate(),
    lambda: DiarizationErrorRate(as_is=True),
    lambda: FrameF1(threshold=0.6),
    lambda: FrameF1(as_is=True),
    lambda: SpeakerCountAccuracy(),
]


def random_batch(seed: int, batch: int = 6, frames: int = 12, slots: int = 3):
    generator = torch.Generator().manual_seed(seed)
    probs = torch.rand(batch, frames, slots, generator=generator)
    labels = (torch.rand(batch, frames, slots, generator=generator) < 0.4).float()
    lengths = torch.randint(1, frames + 1, (batch,), generator=generator)
    return probs, labels, lengths


def test_rates_by_hand():
    labels = torch.tensor([[[1, 0], [1, 1], [0, 1], [0, 0]]]).float()
    probs = torch.tensor([[[0, 1], [0, 1], [0, 1], [1, 0]]]).float()
    der = DiarizationErrorRate()
    der.update(probs, labels, torch.tensor([4]))
    assert der.compute().item() == 0.75
    parts = {name: rate.item() for name, rate in der.components().items()}
    assert parts == {"der": 0.75, "missed": 0.25, "false_alarm": 0.25, "confusion": 0.25}
    f1 = FrameF1()
    f1.update(probs, labels)
    assert f1.compute().item() == 0.5
    count = SpeakerCountAccuracy(min_active_frames=1)
    count.update(probs, labels)
    assert count.compute().item() == 1.0


@given(seed=st.integers(0, 1000), which=st.integers(0, len(ALL) - 1), cut=st.integers(1, 5))
def test_a_rate_does_not_depend_on_the_batches(seed, which, cut):
    batch = random_batch(seed)
    whole, parts = ALL[which](), ALL[which]()
    whole.update(*batch)
    parts.update(*(x[:cut] for x in batch))
    parts.update(*(x[cut:] for x in batch))
    assert torch.equal(whole.compute(), parts.compute())


@pytest.mark.parametrize("make", ALL)
def test_a_perfect_answer_is_perfect_and_reset_forgets(make):
    _, labels, lengths = random_batch(0)
    metric = make()
    metric.update(1 - labels, labels, lengths)
    worst = metric.compute()
    metric.reset()
    metric.update(sort_by_arrival(labels, lengths), labels, lengths)
    best = metric.compute()
    assert best.item() == (1.0 if metric.higher_is_better else 0.0)
    assert best != worst
    assert best.dtype == torch.float32
    assert best.shape == ()


def test_without_true_speech():
    silence, speech = torch.zeros(1, 5, 2), torch.ones(1, 5, 2)
    der, f1 = DiarizationErrorRate(), FrameF1()
    for answer, expected_der, expected_f1 in ((silence, 0.0, 1.0), (speech, 1.0, 0.0)):
        der.update(answer, silence)
        f1.update(answer, silence)
        assert (der.compute().item(), f1.compute().item()) == (expected_der, expected_f1)


def test_each_argument_does_something():
    batch = random_batch(1)
    values = set()
    for metric in (
        DiarizationErrorRate(),
        DiarizationErrorRate(threshold=0.7),
        DiarizationErrorRate(as_is=True),
        FrameF1(),
        FrameF1(threshold=0.7),
        FrameF1(as_is=True),
    ):
        metric.update(*batch)
        values.add(metric.compute().item())
    assert len(values) == 6


def on_rank(rank: int, rendezvous: str, results: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    batch = random_batch(5)
    cut = slice(0, 2) if rank == 0 else slice(2, 6)
    values = []
    for make in ALL:
        metric = make()
        metric.update(*(x[cut] for x in batch))
        values.append(metric.compute())
        if isinstance(metric, DiarizationErrorRate):
            values.extend(metric.components().values())
    torch.save(torch.stack(values), f"{results}{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_of_unequal_load_give_the_rates_of_one_process(tmp_path):
    mp.spawn(on_rank, args=(str(tmp_path / "rendezvous"), str(tmp_path / "rank")), nprocs=2)
    expected = []
    for make in ALL:
        metric = make()
        metric.update(*random_batch(5))
        expected.append(metric.compute())
        if isinstance(metric, DiarizationErrorRate):
            expected.extend(metric.components().values())
    for rank in range(2):
        assert torch.equal(torch.load(tmp_path / f"rank{rank}.pt"), torch.stack(expected))


def test_nemos_f1_forgets_all_but_the_last_batch():
    """The reason for our own: NeMo's MultiBinaryAccuracy overwrites its counts unless told to add them."""
    from nemo.collections.asr.metrics.multi_binary_acc import MultiBinaryAccuracy

    probs, labels, lengths = random_batch(7)
    theirs, last, adding, ours = (
        MultiBinaryAccuracy(),
        MultiBinaryAccuracy(),
        MultiBinaryAccuracy(),
        FrameF1(as_is=True),
    )
    last.update(probs[3:], labels[3:], lengths[3:])
    for cut in (slice(0, 3), slice(3, 6)):
        theirs.update(probs[cut], labels[cut], lengths[cut])
        adding.update(probs[cut], labels[cut], lengths[cut], cumulative=True)
        ours.update(probs[cut], labels[cut], lengths[cut])
    assert torch.equal(theirs.compute()[0], last.compute()[0])
    assert not torch.equal(theirs.compute()[0], adding.compute()[0])
    in_order = MultiBinaryAccuracy()
    in_order.update(probs, sort_by_arrival(labels, lengths), lengths)
    assert_close(ours.compute(), in_order.compute()[0], rtol=0, atol=1e-5)
