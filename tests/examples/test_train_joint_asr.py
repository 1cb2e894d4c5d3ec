# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The training script of the joint model as a user runs it, and its settings for two CPU cores."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from nemo_sortformer import SortformerJointASR
from tests.models import joint_sessions

ROOT = Path(__file__).parents[2]


@pytest.fixture
def data(tmp_path):
    """A manifest of three sessions with SegLST files, and a tokenizer."""
    lines = []
    for number in range(3):
        audio, words = joint_sessions.session(number)
        soundfile.write(tmp_path / f"{number}.wav", audio, 16000)
        rows = [
            {
                "session_id": str(number),
                "speaker": f"s{word.speaker}",
                "start_time": word.start,
                "end_time": word.end,
                "words": word.text,
            }
            for word in words
        ]
        (tmp_path / f"{number}.json").write_text(json.dumps(rows))
        entry = {
            "audio_filepath": f"{number}.wav",
            "duration": len(audio) / 16000,
            "seglst_filepath": f"{number}.json",
        }
        lines.append(json.dumps(entry))
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    joint_sessions.make_tokenizer(tmp_path / "tokenizer")
    return tmp_path


@pytest.mark.slow
def test_the_script_trains_and_leaves_a_file_that_restores(data):
    command = [sys.executable, str(ROOT / "examples" / "train_joint_asr.py"), "--config-name=joint_asr_test"]
    options = [
        f"tokenizer_dir={data / 'tokenizer'}",
        f"model.train_ds.manifest_filepath={data / 'train.jsonl'}",
        "trainer.max_steps=2",
        f"exp_manager.exp_dir={data}",
    ]
    done = subprocess.run(
        command + options, capture_output=True, text=True, cwd=data, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = (data / "joint_asr_test").rglob("*.nemo")
    model = SortformerJointASR.restore_from(str(file), map_location="cpu")
    assert list(model.text_heads) == ["words", "streams"]
    (transcript,) = model.transcribe_sessions(data / "0.wav")
    assert transcript.recording == "0"


@pytest.mark.slow
def test_the_small_model_starts_from_the_shipped_encoder(data):
    with initialize_config_dir(str(ROOT / "configs"), version_base=None):
        cfg = compose("joint_asr_tiny", overrides=[f"tokenizer_dir={data / 'tokenizer'}"])
    model = SortformerJointASR(cfg=cfg.model)
    before = {name: value.clone() for name, value in model.text_heads.state_dict().items()}
    path = ROOT / "nemo_sortformer" / "checkpoints" / "sortformer_tiny.nemo"
    model.maybe_init_from_pretrained_checkpoint(OmegaConf.create({"init_from_nemo_model": str(path)}))
    assert all((model.text_heads.state_dict()[name] == value).all() for name, value in before.items())
    batch = joint_sessions.batch([joint_sessions.session(0)], model.tokenizers, num_slots=4)
    assert set(model.compute_losses(batch)[1]) == {"sort", "layer", "affinity", "activity", "streams", "words"}
