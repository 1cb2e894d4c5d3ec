# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""A model whose layers several processes share is the model of one process: losses, gradients, parameters, buffers."""

import pytest

from nemo_sortformer.distributed.split_randomness import seed_of_rank

TOLERANCE = 1e-5
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def on_two(run_processes):
    """Results of the cases that two processes run, by group."""
    return run_processes("split_tensors.py", 2, "parity", "errors", "dropout", "memory", timeout=1200.0)


def wrong(found):
    """The measures in which a split model is not the whole one."""
    measures = ("loss", "gradient", "parameter", "buffer", "output")
    return {name: found[name] for name in measures if not found[name] < TOLERANCE}


def test_two_processes_train_as_one(on_two):
    assert len(on_two["parity"]) == 24
    for case, found in on_two["parity"].items():
        assert not wrong(found), (case, found)
        assert found["ranks differ"] == 0, case
        assert found["moved"] > 1e-2, case
        assert found["held"] < 0.53, case  # but for norms and a few biases, half of the layers


def test_two_by_two_processes_train_as_one(run_processes):
    results = run_processes("split_tensors.py", 4, "mixed", timeout=1200.0)["mixed"]
    assert len(results) == 7
    for case, found in results.items():
        assert not wrong(found), (case, found)
        assert found["ranks differ"] == 0, case
        assert found["held"] < (0.53 if "by hand" in case else 0.27), case


def test_a_missing_exchange_is_noticed(run_processes):
    results = run_processes("split_tensors.py", 2, "broken", timeout=1200.0)["broken"]
    only_sequence = ("_AddGradientsOfAll", "_KeepPart", "_JoinPartsAlike", "_AddUpParts", "_Exchange")
    never = ("_AddGradients", "_AddUp")  # with sequence parallelism, frames are joined and divided instead
    for case, found in results.items():
        name, _, sequence_parallel = case.split()
        used = name not in only_sequence if sequence_parallel == "False" else name not in never
        assert bool(wrong(found)) == used, (case, found)
        if used:
            assert max(wrong(found).values()) > 1e-3, (case, found)


def test_dropout_differs_where_the_work_is_split_and_only_there(on_two):
    cases = {name: found for name, found in on_two["dropout"].items() if "shared" not in name}
    assert len(cases) == 4
    for case, found in cases.items():
        # Two Conformer layers with an attention and two feed-forward networks; two attentions of the state encoder.
        expected = {"sortformer": (8, 24), "transformer": (8, 18)}[case.split(",")[0]]
        assert found["repeated"] == 0, case
        if "sequence" not in case:
            assert found["apart"] == expected[0], (case, found)
        else:  # only the layers in front of the encoders' and behind them are not split
            assert found["apart"] > 2 * expected[0], (case, found)
        assert found["alike"] > 0, case
        assert found["losses"][0] == found["losses"][1], case
        assert found["ranks differ"] == 0, case
        assert found["generators agree"], case


def test_a_shared_dropout_seed_is_noticed(on_two):
    cases = {name: found for name, found in on_two["dropout"].items() if "shared" in name}
    assert len(cases) == 4
    for case, found in cases.items():
        assert found["apart"] == 0, case


def test_recomputed_layers_drop_the_same_units(on_two):
    for case, found in on_two["dropout"].items():
        assert found["recomputed loss"] == 0, case
        assert found["recomputed gradient"] < 1e-6, case


def test_a_process_holds_what_the_formulas_of_memory_say(on_two):
    assert len(on_two["memory"]) == 8
    for case, found in on_two["memory"].items():
        assert found["parameters"] == found["formula parameters"], case
        assert found["kept"] == pytest.approx(found["formula"], rel=0.03), case


@pytest.mark.parametrize(
    "case, message",
    [
        ("heads", "must divide the 1 attention heads of `encoder.layers.0.self_attn`, but is 2. Set it to one of 1,"),
        ("state heads", "must divide the 1 attention heads of `transformer_encoder.layers.0.attention`, but is 2."),
        (
            "inner",
            "must divide the 33 inner units of `transformer_encoder.layers.0.feed_forward`, but is 2. Set it to",
        ),
        ("groups", "must divide the 1 groups of `encoder.layers.0.conv.batch_norm`, but is 2."),
        ("stochastic depth", "`sequence_parallel` must be false with `stochastic_depth_drop_prob` above 0"),
    ],
)
def test_what_cannot_be_split_is_refused_and_left_as_it_was(case, message, on_two):
    assert message in on_two["errors"][case]
    assert on_two["errors"][f"{case} untouched"]


def test_wrong_calls_are_refused(on_two):
    errors = on_two["errors"]
    assert "is sharded already: split its tensors first" in errors["twice"]
    assert "knows `ConformerEncoder`, `SortformerEncoder`, `TransformerStateEncoder`" in errors["nothing"]
    assert "must have one dimension, but has 2" in errors["two dimensions"]


def test_seeds_of_ranks_are_all_different_and_in_range():
    seeds = {seed_of_rank(seed, rank) for seed in (0, 1, 2, 2**62 - 1) for rank in range(64)}
    assert len(seeds) == 4 * 64
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of_rank(7, 1) == seed_of_rank(7, 1)
