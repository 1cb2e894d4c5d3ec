# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The labeler's scripts as a user runs them: train, resume, leave a .nemo; draw; learn two kinds of labels."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nemo_sortformer.models.labeler import SortformerLabeler

ROOT = Path(__file__).parents[2]


@pytest.fixture
def manifest(tmp_path):
    rng = np.random.default_rng(0)
    lines = []
    for number in range(8):
        labels = np.repeat(np.eye(3)[rng.integers(0, 3, size=6)], 5, axis=0)
        embeddings = labels @ rng.normal(size=(3, 4)) + 0.1 * rng.normal(size=(30, 4))
        np.savez(tmp_path / f"{number}.npz", embeddings=embeddings, labels=labels)
        lines.append(json.dumps({"embeddings_filepath": f"{number}.npz"}) + "\n")
    path = tmp_path / "data.jsonl"
    path.write_text("".join(lines))
    return path


def run(folder, script, *arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HYDRA_FULL_ERROR": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(ROOT / "examples" / script), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)


@pytest.mark.slow
def test_the_script_trains_resumes_leaves_a_nemo_file_that_can_be_drawn(manifest, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    sizes = ["hidden_size=16", "inner_size=32", "num_layers=2", "num_attention_heads=2"]
    options = [f"model.encoder.{size}" for size in sizes]
    options += ["model.input_dim=4", "model.optim.sched.warmup_steps=1", "exp_manager.exp_dir=runs"]
    options += [f"model.{name}_ds.manifest_filepath={manifest}" for name in ("train", "validation", "test")]
    options += ["model.train_ds.batch_size=4", "trainer.accelerator=cpu", "+trainer.enable_progress_bar=false"]
    done = run(work, "train_labeler.py", *options, "trainer.max_steps=2")
    assert done.returncode == 0, done.stderr[-4000:]
    nemo_file = work / "runs" / "labeler" / "checkpoints" / "labeler.nemo"
    assert nemo_file.is_file()
    assert list((work / "runs").rglob("events.out.tfevents.*"))
    assert [path.name for path in work.iterdir()] == ["runs"]  # nothing is left lying about

    done = run(work, "train_labeler.py", *options, "trainer.max_steps=4", f"init_from_nemo_model={nemo_file}")
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Restoring states from the checkpoint" in done.stdout + done.stderr
    model = SortformerLabeler.restore_from(str(nemo_file), map_location="cpu")
    assert model.num_classes == {"": 4}

    picture = tmp_path / "encoding.png"
    done = run(work, "show_permutation_encoding.py", tmp_path / "0.npz", "--model", nemo_file, "--out", picture)
    assert done.returncode == 0, done.stderr[-4000:]
    assert picture.stat().st_size > 5000
    assert "1 layers, 30 frames" in done.stdout


@pytest.mark.slow
def test_two_kinds_of_labels_are_trained_beside_each_alone(tmp_path):
    saved = tmp_path / "two.nemo"
    done = run(tmp_path, "two_label_types.py", "--steps", 2, "--sequences", 16, "--out", saved)
    assert done.returncode == 0, done.stderr[-4000:]
    rows = [line.split()[:3] for line in done.stdout.splitlines() if "error" in line]
    assert [row[0] for row in rows] == ["both", "both", "speaker", "language"]
    assert SortformerLabeler.restore_from(str(saved), map_location="cpu").num_classes == {"speaker": 4, "language": 3}


def test_the_training_script_is_short():
    assert len((ROOT / "examples" / "train_labeler.py").read_text().splitlines()) < 60
