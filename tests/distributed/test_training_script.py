# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The training script with NeMo's exp_manager: two processes, then one that goes on; checkpoints, .nemo, schedule."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from nemo_sortformer.models.diarizer import SortformerDiarizer

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[2] / "examples" / "train_diarizer.py"


@pytest.fixture
def manifest(tmp_path):
    """Eight recordings of two tones that take turns."""
    lines = []
    for number in range(8):
        rng = np.random.default_rng(number)
        audio = 0.01 * rng.standard_normal(32000)
        rttm = []
        for turn, start in enumerate((0.2, 0.9, 1.4)):
            span = np.arange(round(start * 16000), round((start + 0.5) * 16000))
            audio[span] += 0.2 * np.sin(2 * np.pi * (170 + 90 * (turn % 2)) * span / 16000)
            rttm.append(f"SPEAKER r{number} 1 {start:.3f} 0.500 <NA> <NA> s{turn % 2} <NA> <NA>\n")
        stem = tmp_path / f"r{number}"
        soundfile.write(f"{stem}.wav", audio, 16000)
        stem.with_suffix(".rttm").write_text("".join(rttm))
        entry = {"audio_filepath": f"{stem}.wav", "offset": 0.0, "duration": 2.0, "rttm_filepath": f"{stem}.rttm"}
        lines.append(json.dumps(entry) + "\n")
    path = tmp_path / "train.jsonl"
    path.write_text("".join(lines))
    return path


@pytest.mark.parametrize("sharded", [False, True], ids=["one file", "parts"])
def test_two_processes_then_one(start_processes, manifest, tmp_path, sharded):
    def train(count, steps):
        run = start_processes(
            SCRIPT,
            count,
            [
                "--config-name=diarizer_test",
                f"hydra.run.dir={tmp_path / 'hydra'}",
                "trainer.strategy=nemo_sortformer",
                f"trainer.devices={count}",
                f"trainer.max_steps={steps}",
                "++trainer.val_check_interval=2",
                "++trainer.check_val_every_n_epoch=null",
                f"++model.parallel.sharded_checkpoints={str(sharded).lower()}",
                "model.parallel.zero_stage=2",
                f"model.train_ds.manifest_filepath={manifest}",
                f"model.train_ds.batch_size={4 // count}",
                f"exp_manager.exp_dir={tmp_path / 'runs'}",
                "++exp_manager.create_tensorboard_logger=false",
                "++exp_manager.checkpoint_callback_params.save_best_model=false",
            ],
        )
        assert run.wait(600) == [0] * count, run.output()
        return run.output()

    train(2, 4)
    folder = tmp_path / "runs" / "diarizer_test" / "checkpoints"
    assert len(list(folder.glob("*-last.ckpt"))) == 1
    last = next(folder.glob("*-last.ckpt"))
    before = torch.load(last, weights_only=False)
    assert before["global_step"] == 4
    assert before["lr_schedulers"][0]["last_epoch"] == 4
    output = train(1, 6)
    assert "Restored all states" in output
    files = sorted(path.name for path in folder.iterdir())
    assert len([name for name in files if name.endswith("-last.ckpt")]) == 1
    assert not [name for name in files if "partial" in name or "unfinished" in name]
    if sharded:
        assert len(list(folder.with_name("checkpoints.shards").iterdir())) == len(list(folder.glob("*.ckpt")))
    after = torch.load(next(folder.glob("*-last.ckpt")), weights_only=False)
    assert after["lr_schedulers"][0]["last_epoch"] == 6
    model = SortformerDiarizer.restore_from(str(folder / "diarizer_test.nemo"))
    assert model.config.parallel.zero_stage == 2
    assert len(model.diarize(str(manifest.parent / "r0.wav"), verbose=False)) == 1
