# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The training script as a user runs it: train from each source, leave a .nemo, resume, say which setting is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
from lightning.pytorch import Trainer
from omegaconf import OmegaConf

from nemo_sortformer.models.diarizer import SortformerDiarizer

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "train_diarizer.py"


@pytest.fixture
def manifest(tmp_path):
    lines = []
    for number in range(4):
        rng = np.random.default_rng(number)
        stem = tmp_path / f"call_{number}"
        soundfile.write(f"{stem}.wav", 0.1 * rng.standard_normal(48000), 16000)
        turns = [(0.2, 1.0, "a"), (1.1, 1.5, "b")]
        stem.with_suffix(".rttm").write_text(
            "".join(
                f"SPEAKER {stem.name} 1 {start} {length} <NA> <NA> {who} <NA> <NA>\n" for start, length, who in turns
            )
        )
        entry = {"audio_filepath": f"{stem}.wav", "offset": 0.0, "duration": 3.0, "rttm_filepath": f"{stem}.rttm"}
        lines.append(json.dumps(entry) + "\n")
    path = tmp_path / "train.jsonl"
    path.write_text("".join(lines))
    return path


@pytest.fixture
def cuts(manifest):
    """The recordings of the manifest as lhotse cuts, their speakers in the supervisions."""
    made = []
    for line in manifest.read_text().splitlines():
        stem = Path(json.loads(line)["audio_filepath"]).with_suffix("")
        recording = Recording.from_file(stem.with_suffix(".wav"))
        turns = [row.split() for row in stem.with_suffix(".rttm").read_text().splitlines()]
        supervisions = [
            SupervisionSegment(f"{stem.name}-{k}", recording.id, float(row[3]), float(row[4]), speaker=row[7])
            for k, row in enumerate(turns)
        ]
        made.append(MonoCut(stem.name, 0, recording.duration, 0, supervisions=supervisions, recording=recording))
    path = manifest.parent / "cuts.jsonl.gz"
    CutSet.from_cuts(made).to_file(path)
    return path


def run(folder, *overrides):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HYDRA_FULL_ERROR": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(SCRIPT), "--config-name=diarizer_test", *overrides]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_the_script_trains_resumes_and_leaves_a_nemo_file(manifest, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    data = f"model.train_ds.manifest_filepath={manifest}"
    done = run(work, data, "exp_manager.exp_dir=runs", "trainer.max_steps=3")
    assert done.returncode == 0, done.stderr[-4000:]
    experiment = work / "runs" / "diarizer_test"
    nemo_file = experiment / "checkpoints" / "diarizer_test.nemo"
    assert nemo_file.is_file()
    assert list(experiment.rglob("events.out.tfevents.*"))
    assert [path.name for path in work.iterdir()] == ["runs"]  # nothing is left lying about
    assert SortformerDiarizer.restore_from(str(nemo_file), map_location="cpu").num_slots == 4

    start = f"init_from_nemo_model={nemo_file}"
    done = run(work, data, "exp_manager.exp_dir=runs", "trainer.max_steps=5", start)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "tensors loaded from" in done.stdout + done.stderr
    assert "Restoring states from the checkpoint" in done.stdout + done.stderr
    checkpoints = [path.name for path in (experiment / "checkpoints").glob("*-last.ckpt")]
    assert checkpoints


@pytest.mark.slow
def test_the_script_trains_from_lhotse_cuts(cuts, tmp_path):
    done = run(tmp_path, f"model.train_ds.cuts_path={cuts}", "exp_manager.exp_dir=runs", "trainer.max_steps=3")
    assert done.returncode == 0, done.stderr[-4000:]
    assert (tmp_path / "runs" / "diarizer_test" / "checkpoints" / "diarizer_test.nemo").is_file()
    assert "'val_der' reached" in done.stdout + done.stderr  # by the same cuts


@pytest.mark.slow
@pytest.mark.parametrize(
    "source",
    [
        {"cuts_path": "{cuts}", "session_len_sec": 2.0, "batch_size": 2, "num_workers": 1},
        {"cuts_path": "{cuts}", "lhotse": {"batch_duration": 6.0, "use_bucketing": True, "num_buckets": 2}},
        {"manifest_filepath": "{manifest}", "use_lhotse": True, "session_len_sec": 2.0, "batch_size": 2},
    ],
    ids=["cuts", "buckets", "manifest"],
)
def test_epochs_of_lhotse_cuts_end_and_are_followed_by_validation(cuts, manifest, source):
    paths = {"{cuts}": str(cuts), "{manifest}": str(manifest)}
    source = {key: paths.get(value, value) if isinstance(value, str) else value for key, value in source.items()}
    torch.manual_seed(0)
    cfg = OmegaConf.load(ROOT / "configs" / "diarizer_test.yaml").model
    cfg.train_ds = source
    cfg.validation_ds = {"cuts_path": str(cuts), "batch_size": 3}
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_steps=4, accelerator="cpu", use_distributed_sampler=False, **quiet)
    model = SortformerDiarizer(cfg=cfg, trainer=trainer)
    before = model.sortformer_modules.single_hidden_to_spks.weight.clone()
    trainer.fit(model)
    assert (trainer.current_epoch, trainer.global_step) == (2, 4)
    assert not torch.equal(model.sortformer_modules.single_hidden_to_spks.weight, before)
    assert 0 < trainer.callback_metrics["val_der"] < 5  # four slots that always speak


@pytest.mark.slow
def test_a_misspelt_setting_stops_the_script_with_a_hint(manifest, tmp_path):
    done = run(tmp_path, f"model.train_ds.manifest_filepath={manifest}", "+model.train_ds.bach_size=2")
    assert done.returncode != 0
    assert "`model.train_ds.bach_size` is no key of DatasetConfig. Did you mean `batch_size`?" in done.stderr


def test_the_script_is_short():
    assert len(SCRIPT.read_text().splitlines()) < 80
