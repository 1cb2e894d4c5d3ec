# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Uneven data are all counted, once; whatever goes wrong ends all processes, with words that say what to do."""

import signal
import socket

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def uneven(run_processes):
    return run_processes("faults.py", 2, "uneven")


@pytest.mark.parametrize("kind", ["sized", "unsized"])
def test_validation_data_that_end_first_somewhere_are_counted_once(uneven, kind):
    wanted, metrics = uneven[kind]["wanted"], uneven[kind]["metrics"]
    for name, value in wanted.items():
        for loader in ("", "val_0_", "val_1_"):
            found = metrics[f"{loader}val_{name}" if loader else f"val_{name}"]
            assert found == pytest.approx(value, rel=1e-5, abs=1e-6), (loader, name)


def test_training_ends_together(uneven):
    assert uneven["sized"]["steps"] == [4, 4]
    assert uneven["unsized"]["steps"] == [3, 3]


def test_the_others_stop_when_a_process_dies(start_processes, tmp_path):
    run = start_processes("faults.py", 2, [tmp_path / "result", "die"])
    codes = run.wait(600)
    assert codes == [1, -signal.SIGKILL], run.output()
    assert "Process 0 of 2 stops, as another one ended" in run.output()
    assert "goes on from the last whole checkpoint" in run.output()


@pytest.mark.parametrize(
    "case, words",
    [
        ("overflow", "float16 overflowed in 3 steps in a row"),
        ("optimizer", "`model.optim.name` must be an optimizer that works on parts of tensors"),
        ("precision", "`trainer.precision` and `model.parallel.dtype` must agree, but are `bf16-mixed` and `fp16`"),
        ("true precision", "`trainer.precision` must be `32-true`, `bf16-mixed` or `16-mixed`"),
        ("sizes", "2 times 1, must divide the number of processes, but that is 1"),
        ("tied", "Set `model.encoder.untie_biases: true`"),
        ("missing", "does not exist, or is no file"),
    ],
)
def test_a_mistake_is_named(start_processes, tmp_path, case, words):
    run = start_processes("faults.py", 1, [tmp_path / "result", case])
    assert run.wait(600) == [1], run.output()
    assert words in run.output()


def test_a_port_in_use_is_named(start_processes, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        run = start_processes("faults.py", 1, [tmp_path / "result", "meet"], MASTER_PORT=port)
        assert run.wait(600) == [1], run.output()
    assert f"`MASTER_ADDR:MASTER_PORT`, 127.0.0.1:{port}" in run.output()


def test_a_number_of_processes_that_is_not_that_of_the_devices_is_named(start_processes, tmp_path):
    run = start_processes("faults.py", 1, [tmp_path / "result", "meet"], WORLD_SIZE=3, SORTFORMER_DEVICES=1)
    assert run.wait(600) == [1], run.output()
    assert "devices" in run.output()
