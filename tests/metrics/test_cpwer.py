# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""cpWER: by hand, pooled over batches and ranks, equal to meeteval's total, and clear about wrong input."""

import pytest
import torch
import torch.multiprocessing as mp
from hypothesis import given
from hypothesis import strategies as st

from nemo_sortformer.metrics import ConcatenatedPermutationWER

session = st.lists(st.lists(st.sampled_from(["ja", "nein", "doch"]), max_size=5).map(" ".join), min_size=1, max_size=3)
sessions = st.lists(st.tuples(session, session), min_size=1, max_size=5)
REFERENCES = [["one two", "three"], ["four five six"], [], ["seven"]]
HYPOTHESES = [["three", "one two"], ["four six"], ["noise"], ["seven", "eight"]]


def test_the_rate_by_hand():
    metric, as_is = ConcatenatedPermutationWER(), ConcatenatedPermutationWER(as_is=True)
    for each in (metric, as_is):
        each.update(REFERENCES, HYPOTHESES)
    assert metric.compute().item() == pytest.approx(3 / 7)  # `five` is left out, `noise` and `eight` are put in
    assert as_is.compute().item() == pytest.approx((3 + 4) / 7)
    assert metric.compute().shape == ()
    metric.reset()
    assert metric.counts.tolist() == [0, 0]


def test_without_a_true_word():
    for texts, rate in (([], 0.0), ([""], 0.0), (["word"], 1.0)):
        metric = ConcatenatedPermutationWER()
        metric.update([[]], [texts])
        assert metric.compute().item() == rate


@given(pairs=sessions, cut=st.integers(0, 5))
def test_the_rate_is_meetevals_and_does_not_depend_on_the_batches(pairs, cut):
    references, hypotheses = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    whole, parts = ConcatenatedPermutationWER(), ConcatenatedPermutationWER()
    whole.update(references, hypotheses)
    parts.update(references[:cut], hypotheses[:cut])
    parts.update(references[cut:], hypotheses[cut:])
    assert torch.equal(whole.compute(), parts.compute())
    meeteval = pytest.importorskip("meeteval", reason="meeteval is not installed (extra `words`)")
    total = sum(
        (meeteval.wer.cp_word_error_rate(*pair) for pair in pairs),
        start=meeteval.wer.CPErrorRate.zero(),
    )
    if total.length:
        assert whole.compute().item() == pytest.approx(total.error_rate)


@pytest.mark.parametrize(
    "references, hypotheses, message",
    [([["a"]], [], "one entry per recording, 1"), (["a"], [["a"]], "`references`"), ([["a"]], ["a"], "`hypotheses`")],
)
def test_a_wrong_form_is_an_error_and_counts_nothing(references, hypotheses, message):
    metric = ConcatenatedPermutationWER()
    with pytest.raises(ValueError, match=message):
        metric.update(references, hypotheses)
    assert metric.counts.tolist() == [0, 0]


def on_rank(rank: int, rendezvous: str, results: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    cut = slice(0, 1) if rank == 0 else slice(1, 4)
    metric = ConcatenatedPermutationWER()
    metric.update(REFERENCES[cut], HYPOTHESES[cut])
    torch.save(metric.compute(), f"{results}{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_of_unequal_load_give_the_rate_of_one_process(tmp_path):
    mp.spawn(on_rank, args=(str(tmp_path / "rendezvous"), str(tmp_path / "rank")), nprocs=2)
    for rank in range(2):
        assert torch.load(tmp_path / f"rank{rank}.pt").item() == pytest.approx(3 / 7)
