# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The settings of several devices: what divides among whom, and sizes that cannot be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_sortformer.config import ConfigError, ParallelConfig, from_cfg


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_every_process_has_its_place(copies, parts, tensor, stage):
    config = ParallelConfig(tensor_parallel_size=tensor, replicate_size=copies, zero_stage=stage)
    world = copies * parts * tensor
    assert config.mesh_shape(world) == (copies, parts, tensor)
    shares = [config.data_share(rank, world) for rank in range(world)]
    assert {size for _, size in shares} == {copies * parts}
    numbers = [number for number, _ in shares]
    assert numbers == sorted(numbers), "processes that split a layer are neighbours"
    assert all(numbers.count(number) == tensor for number in range(copies * parts))


def test_without_division_each_process_is_a_copy():
    assert ParallelConfig(zero_stage=0, tensor_parallel_size=2).mesh_shape(8) == (4, 1, 2)


@pytest.mark.parametrize("world", [1, 3, 6])
def test_sizes_that_do_not_divide_are_named(world):
    config = ParallelConfig(tensor_parallel_size=2, replicate_size=2)
    with pytest.raises(ConfigError, match=rf"2 times 2, must divide the number of processes, but that is {world}"):
        config.mesh_shape(world)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"dtype": "float16"}, "`model.parallel.dtype` must be one of"),
        ({"zero_stage": 4}, "`model.parallel.zero_stage` must be one of"),
        ({"tensor_parallel_size": 0}, "`tensor_parallel_size` must be at least 1, but is 0"),
        ({"sequence_parallel": True}, "`sequence_parallel` needs `tensor_parallel_size` of 2 or more"),
        ({"zero_stage": 0, "replicate_size": 2}, "`replicate_size` must be 1 with `zero_stage: 0`"),
        ({"timeout_seconds": 0}, "`timeout_seconds` must be above 0"),
        ({"zero_stages": 3}, "Did you mean `zero_stage`"),
    ],
)
def test_a_wrong_setting_is_named(settings, words):
    with pytest.raises(ConfigError, match=words):
        from_cfg(ParallelConfig, settings, path="model.parallel")
