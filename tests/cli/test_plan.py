# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""`nemo-sortformer plan` as a user runs it."""

import json
import shlex

import pytest
from typer.testing import CliRunner

from nemo_sortformer.cli import app
from nemo_sortformer.config import ParallelConfig, from_cfg


@pytest.fixture(scope="module")
def run():
    """Run the command; the result has exit_code, stdout and stderr."""
    return lambda words: CliRunner().invoke(app, ["plan", *shlex.split(words)])


def test_the_plan_of_the_published_model(run):
    done = run("--config diarizer_published --gpus 64 --gpu-memory 80 --seconds 90")
    assert done.exit_code == 0, done.output
    assert "123.2 M parameters, recordings of 90 s (1125 frames), 64 GPUs of 80 GB" in done.stdout
    assert "Recommended, as the first in the table that fits: layers need not be shared" in done.stdout
    assert "trainer.strategy=nemo_sortformer +model.parallel.dtype=bf16 +model.parallel.zero_stage=2" in done.stdout


def test_json_has_every_layout_and_settings_that_the_strategy_takes(run):
    plan = json.loads(run("--config diarizer_published --gpus 8 --gpu-memory 24 --batch-size 6 --json").stdout)
    assert plan["batch_size"] == 6
    assert plan["seconds"] == 90.0
    assert len(plan["layouts"]) > 4
    assert plan["recommended"] == next(layout for layout in plan["layouts"] if layout["fits"])
    assert plan["recommended"]["largest_batch"] >= 6
    for layout in plan["layouts"]:
        given = dict(word.removeprefix("+model.parallel.").split("=") for word in layout["overrides"][1:])
        typed = {
            key: value == "true" if value in ("true", "false") else int(value) if value.isdigit() else value
            for key, value in given.items()
        }
        from_cfg(ParallelConfig, typed).mesh_shape(8)


def test_nothing_fits(run):
    done = run("--config diarizer_published --gpus 1 --gpu-memory 3 --json")
    plan = json.loads(done.stdout)
    assert plan["recommended"] is None
    assert "Nothing fits: the least that a layout needs is" in plan["reason"]
    assert done.exit_code == 0


@pytest.mark.parametrize(
    "words, message",
    [
        ("--config nothing_here", "`--config` must be a YAML file or one of"),
        ("--config diarizer_published --gpus 0", "`gpus` must be at least 1, but is 0"),
        ("--config diarizer_published --gpu-memory 0.2", "`gpu_memory` must be above"),
        ("--config diarizer_published --dtype int8", "`dtype` must be one of fp32, bf16, fp16, but is 'int8'"),
        ("--config diarizer_published --seconds 0", "`--seconds` must say how long a recording is"),
    ],
)
def test_impossible_input_is_one_line_and_status_two(words, message, run):
    done = run(words)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.output
