# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Two processes over gloo give the gradients and the metrics of one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch.testing import assert_close

SCRIPT = Path(__file__).with_name("two_processes.py")


def launch(arguments, devices):
    command = [sys.executable, str(SCRIPT), *arguments, str(devices)]
    if devices > 1:
        command[1:1] = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={devices}"]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
    }
    folder = Path(arguments[1]).parent
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.slow
def test_two_processes_give_the_gradients_and_metrics_of_one(our_cfg, tone_manifest, tmp_path):
    # Training recordings of one length, so that the mean over ranks of means over frames is the mean over frames.
    train = tone_manifest([2.0, 2.0, 2.0, 2.0], name="train", speakers=3)
    validation = tone_manifest([1.5, 3.0, 2.2, 4.0], name="val")
    results = {}
    for devices in (1, 2):
        size = 4 // devices
        cfg = our_cfg(
            train_ds={"manifest_filepath": train, "batch_size": size, "shuffle": False},
            validation_ds={"manifest_filepath": validation, "batch_size": 1},
            optim={"name": "sgd", "lr": 0.1},
        )
        config, result = str(tmp_path / f"{devices}.yaml"), str(tmp_path / f"{devices}.pt")
        OmegaConf.save(cfg, config)
        launch([config, result], devices)
        results[devices] = torch.load(result)
    one, two = results[1], results[2]
    assert (one["world"], two["world"]) == (1, 2)
    assert set(one["gradients"]) == set(two["gradients"])
    assert max(float(g.abs().max()) for g in one["gradients"].values()) > 1e-3
    for name, gradient in one["gradients"].items():
        assert_close(
            two["gradients"][name], gradient, rtol=1e-3, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert {"val_loss", "val_der", "val_f1", "val_speaker_count"} <= set(one["metrics"])
    for name, value in one["metrics"].items():
        assert two["metrics"][name] == pytest.approx(value, abs=1e-5), name
