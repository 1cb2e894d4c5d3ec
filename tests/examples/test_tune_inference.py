# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The tuning script as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from omegaconf import OmegaConf

from nemo_sortformer.models.diarizer import SortformerDiarizer

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "tune_inference.py"


def write_manifest(folder, name, seed):
    rng = np.random.default_rng(seed)
    soundfile.write(folder / f"{name}.wav", 0.1 * rng.standard_normal(5 * 16000), 16000)
    turns = [f"SPEAKER {name} 1 {start} 1.5 <NA> <NA> {who} <NA> <NA>\n" for start, who in ((0.5, "a"), (2, "b"))]
    (folder / f"{name}.rttm").write_text("".join(turns))
    path = folder / f"{name}.jsonl"
    path.write_text(json.dumps({"audio_filepath": f"{name}.wav", "rttm_filepath": f"{name}.rttm"}) + "\n")
    return path


@pytest.mark.slow
def test_the_script_prints_what_settings_are_worth_and_leaves_a_file(tmp_path):
    SortformerDiarizer(OmegaConf.load(ROOT / "configs" / "diarizer_test.yaml").model).save_to(str(tmp_path / "x.nemo"))
    manifests = [write_manifest(tmp_path, name, seed) for seed, name in enumerate(("first", "second"))]
    arguments = ["--model", tmp_path / "x.nemo", "--out", tmp_path / "y.nemo", "--assignment", "clustering"]
    for path in manifests:
        arguments += ["--manifest", path]
    done = subprocess.run(
        [sys.executable, SCRIPT, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for word in ("clustering.threshold", "min_duration_off", "first.jsonl", "second.jsonl", "collar 0.25 s"):
        assert word in done.stdout, word
    restored = SortformerDiarizer.restore_from(str(tmp_path / "y.nemo"), map_location="cpu")
    assert restored.config.inference.assignment == "clustering"


def test_the_script_is_short():
    assert len(SCRIPT.read_text().splitlines()) < 80
