# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The comparison on real speech: equal systems, right scores, and a page that is its record."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from benchmarks.ablation.settings import Run
from benchmarks.ablation.speech import Session, SpeechAblationConfig, SpeechFrames, build_system, run_speech
from benchmarks.ablation.speech_report import publish_speech, speech_table, summarize_speech, write_speech_report
from benchmarks.page_blocks import NOT_YET, blocks
from nemo_sortformer.config import ConfigError, from_cfg
from nemo_sortformer.data.segment import Segment
from nemo_sortformer.inference.exact_score import Truth
from nemo_sortformer.inference.score import Condition
from nemo_sortformer.inference.tune import Recording
from nemo_sortformer.inference.windows import Outputs

ROOT = Path(__file__).resolve().parents[2]
RESULT = {"seconds": 1.0, "parameters": 500_000, "commit": "abc", "machine": "a machine"}


def settings(**changes):
    """The settings of the YAML, made smaller by `changes`."""
    cfg = OmegaConf.load(ROOT / "configs" / "ablation_speech.yaml")
    return from_cfg(SpeechAblationConfig, OmegaConf.merge(cfg, {"speech": "nowhere"}, changes))


def test_all_systems_have_the_same_size():
    config = settings()
    sizes = {
        system: sum(p.numel() for p in build_system(config, Run(system, "hybrid", None, 0)).parameters())
        for system in config.systems
    }
    assert max(sizes.values()) < 1.03 * min(sizes.values()), sizes


def two_voices(seed, seconds=16):
    """Frames (T, 128) in which two classes can be read off, their targets and the truth in segments."""
    frames = seconds * 25 // 2
    rng = np.random.default_rng(seed)
    turn = 25
    who = rng.integers(0, 2, frames // turn).repeat(turn)
    who[:turn] = 0
    targets = np.zeros((frames, 4), np.float32)
    targets[np.arange(len(who)), who] = 1.0
    voices = np.random.default_rng(0).standard_normal((2, 128))  # the same two in all recordings: easy to learn
    features = targets[:, :2] @ voices + 0.1 * rng.standard_normal((frames, 128))
    segments = [
        Segment(i * turn * 0.08, (i + 1) * turn * 0.08, f"s{speaker}") for i, speaker in enumerate(who[::turn])
    ]
    return torch.from_numpy(features).float(), torch.from_numpy(targets), segments


def made_frames():
    made = [two_voices(seed) for seed in range(16)]
    sessions = []
    for features, targets, segments in made[:3]:
        truth = Truth(segments, Condition(0.25))
        recording = Recording(Outputs(np.empty((0, 4)), None), truth, 16.0, 0.0)
        sessions.append(Session(features, targets, recording, 2))
    train, labels = torch.stack([m[0] for m in made]), torch.stack([m[1] > 0.5 for m in made])
    return SpeechFrames(train.half(), labels, {"dev": sessions, "test": sessions}, 0.08)


@pytest.mark.slow
def test_a_run_learns_what_is_easy_and_counts_it_right():
    config = settings(train={"steps": 60, "frames": 100, "batch_size": 4, "warmup_steps": 10})
    result = run_speech(config, made_frames(), Run("affinity", "hybrid", None, 0))
    assert result["test"]["der"] == result["dev"]["der"] == result["test_2"]["der"] < 0.2
    assert result["unseen"]["1"]["mapped"] <= result["unseen"]["1"]["as_is"] < 0.4


def fake_results(config):
    results = {}
    for number, run in enumerate(config.runs()):
        rates = {"der": 0.1 + 0.01 * number, "missed": 0.0, "false_alarm": 0.0, "confusion": 0.0}
        scores = dict.fromkeys(("test", "test_2", "test_3", "test_4", "dev"), rates)
        results[run] = RESULT | scores | {"unseen": {"1": {"as_is": 0.5, "mapped": 0.4}}}
    return results


def test_rows_are_means_over_seeds_and_a_page_is_only_written_of_all_runs(tmp_path):
    config = settings(systems={"a": {"title": "A", "encoder": {}}}, seeds=[0, 1])
    config.grid = {"main": type(config.grid["main"])(systems=["a"], losses=["sort"])}
    results = fake_results(config)
    summary = summarize_speech(config, results)
    assert summary["rows"][0]["test"] == pytest.approx([0.105, 0.01 / 2**0.5])
    assert "| A | sort | 500 k | 10.5 ± 0.7 |" in speech_table(summary)
    assert "complete" in write_speech_report(summary, tmp_path).read_text()

    page = tmp_path / "claims.md"
    page.write_text("<!-- speech: table -->\n<!-- end -->\n")
    publish_speech(summary, tmp_path)
    assert blocks(page.read_text(), "speech")["table"] == speech_table(summary).strip()
    results.popitem()
    with pytest.raises(ConfigError, match="1 are missing"):
        publish_speech(summarize_speech(config, results), tmp_path)


def test_the_page_of_claims_is_that_of_the_record():
    page, record = (ROOT / "docs" / "claims.md").read_text(), ROOT / "docs" / "ablation_speech.json"
    table = blocks(page, "speech")["table"]
    if not record.is_file():
        assert table == NOT_YET
        return
    summary = json.loads(record.read_text())
    assert summary["complete"]
    assert table == speech_table(summary).strip()
