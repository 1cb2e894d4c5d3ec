# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Training in any layout gives the numbers of one process: losses, gradients, weights, metrics, on uneven batches."""

import pytest
import torch

pytestmark = pytest.mark.slow

TWO_SHARDED = ["ddp", "zero0", "zero1", "zero2", "zero3", "recomputed"]
TWO_STEPS = ["zero3 clipped", "zero1 accumulated", "zero3 accumulated", "transformer", "tensor", "tensor sequence"]
TWO_HALF = ["bf16", "bf16 zero3", "fp16 overflow", "no all-reduce", "no frame counts"]
FOUR = ["zero3", "hybrid", "hybrid accumulated", "tensor"]
EXACT = 1e-5
LATER = 1e-4
"""For the gradient of the last step. It is taken at weights that differ by 1e-7 already, and the embeddings, which are
divided by their small lengths, make more of that."""
BF16 = 0.1
"""Seven bits of mantissa: each value is off by up to 2^-8, units near zero change sides, and a gradient is a sum of
products of several such. Found: 0.066, the same for both stages."""
FP16 = 5e-3
"""Ten bits: off by up to 2^-11. Found: 0.0019."""


@pytest.fixture(scope="module")
def two_sharded(run_processes):
    return run_processes("parity.py", 2, *TWO_SHARDED)


@pytest.fixture(scope="module")
def two_steps(run_processes):
    return run_processes("parity.py", 2, *TWO_STEPS)


@pytest.fixture(scope="module")
def two_half(run_processes):
    return run_processes("parity.py", 2, *TWO_HALF)


@pytest.fixture(scope="module")
def four(run_processes):
    return run_processes("parity.py", 4, *FOUR)


def distance(found, wanted):
    """Length of the difference of two sets of tensors by the length of the wanted one; the largest single difference.

    Both by the size of all together, so that a small tensor that is wrong altogether shows in the second.
    """
    assert set(found) == set(wanted)
    floating = [name for name in wanted if wanted[name].is_floating_point()]
    difference = [found[name].double() - wanted[name].double() for name in floating]
    sizes = [wanted[name].double() for name in floating]
    length = torch.stack([one.square().sum() for one in difference]).sum().sqrt()
    whole = torch.stack([one.square().sum() for one in sizes]).sum().sqrt()
    worst = max(float(one.abs().max()) for one in difference if one.numel())
    return float(length / whole), worst / max(float(one.abs().max()) for one in sizes if one.numel())


def errors(result):
    """Largest relative error of losses, gradients of all steps, weights, and metrics of a layout."""
    wanted = result["reference"]
    assert len(result["losses"]) == len(wanted["losses"])
    loss = max(abs(one - two) / abs(two) for one, two in zip(result["losses"], wanted["losses"]))
    assert len(result["gradients"]) == 2, "of the first and the last step"
    first, last = (max(distance(found, wanted["gradients"][step])) for step, found in result["gradients"].items())
    weight = max(distance(result["weights"], wanted["weights"]))
    assert set(result["metrics"]) == {*wanted["metrics"], "val_loss"}
    metric = max(abs(result["metrics"][name] - value) for name, value in wanted["metrics"].items())
    return {"loss": loss, "gradient": first, "last gradient": last, "weight": weight, "metric": metric}


def check_exact(result):
    assert result["dtypes"] == {"torch.float32"}
    assert all(sums == result["checksums"][0] for sums in result["checksums"])
    found = errors(result)
    assert found.pop("last gradient") < LATER
    assert max(found.values()) < EXACT, found
    moved = [float(g.abs().max()) for g in result["gradients"][0].values()]
    assert max(moved) > 1e-3


@pytest.mark.parametrize("name", TWO_SHARDED)
def test_two_processes_give_the_numbers_of_one(two_sharded, name):
    check_exact(two_sharded[name])


@pytest.mark.parametrize("name", TWO_STEPS)
def test_two_processes_that_clip_accumulate_or_split_layers_give_the_numbers_of_one(two_steps, name):
    check_exact(two_steps[name])


@pytest.mark.parametrize("name", FOUR)
def test_four_processes_give_the_numbers_of_one(four, name):
    check_exact(four[name])


@pytest.mark.parametrize("name", ["bf16", "bf16 zero3"])
def test_bf16_differs_by_its_rounding_only(two_half, name):
    result = two_half[name]
    found = errors(result)
    assert result["dtypes"] == {"torch.float32"}, "the parameters that the optimizer changes"
    assert EXACT < found["gradient"] < BF16, found
    assert found["loss"] < 1e-2, found
    assert found["weight"] < 1e-2, found
    assert result["checksums"][0] == result["checksums"][1], "the same bits on both processes"


def test_an_overflow_on_one_process_makes_all_leave_out_the_step(two_half):
    result = two_half["fp16 overflow"]
    assert result["skipped"] == [1, 1]
    assert result["scale"] == [32768.0, 32768.0]
    found = errors(result)
    assert found["gradient"] < FP16, found
    assert found["loss"] < 1e-3, found
    assert found["weight"] < 1e-3, found


def test_a_missing_all_reduce_is_noticed(two_half):
    result = two_half["no all-reduce"]
    assert result["checksums"][0] != result["checksums"][1]
    assert errors(result)["gradient"] > 100 * EXACT


def test_a_mean_of_means_over_uneven_batches_is_noticed(two_half):
    assert errors(two_half["no frame counts"])["gradient"] > 100 * EXACT


@pytest.mark.parametrize("name, parts", [("ddp", 1), ("zero0", 1), ("zero1", 2), ("zero2", 2), ("zero3", 2)])
def test_each_process_holds_its_part(two_sharded, name, parts):
    check_bytes(two_sharded[name], parts)


@pytest.mark.parametrize("name, parts", [("zero3", 4), ("hybrid", 2)])
def test_each_of_four_processes_holds_its_part(four, name, parts):
    check_bytes(four[name], parts)


def check_bytes(result, parts):
    """Four bytes per parameter, eight of Adam's; where rows do not divide, one process has one more."""
    whole = 4 * result["parameters"]
    assert sum(result["parameter_bytes"]) == whole * len(result["parameter_bytes"]) / parts
    assert max(result["parameter_bytes"]) < whole / parts * 1.05
    assert [2 * size for size in result["parameter_bytes"]] == result["state_bytes"]
