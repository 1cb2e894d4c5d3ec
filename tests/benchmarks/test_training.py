# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The benchmarks of training run in their small form: both models on one batch, and losses in each precision."""

import json
import sys
import time

import pytest
import torch
from torch import nn

from benchmarks import training, training_curves, training_step
from nemo_sortformer.distributed import accelerators
from nemo_sortformer.distributed.accelerators import Accelerator

NO_GPU = "torchao is not usable: with its float8 layers, but there is no CUDA device"
SMALL = ["--layers", "1", "--seconds", "2", "--batch", "1"]


def results(monkeypatch, capsys, *extra):
    """What the benchmark prints as JSON."""
    monkeypatch.setattr(sys, "argv", ["training", *SMALL, "--rounds", "1", *extra])
    training.main()
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_row_for_each_model_and_a_reason_for_each_that_cannot_run(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    made = []

    def make_step(device, layers, dtype, **options):
        made.append((dtype, options))
        return lambda batch: time.sleep(0.004 if options else 0.001)

    monkeypatch.setattr(training, "make_step", make_step)
    rows = {row["model"]: row for row in results(monkeypatch, capsys, "--compile", "--fp8")["rows"]}
    assert list(rows) == ["NeMo", "ours", "ours, compiled", "ours, float8", "ours, float8, compiled"]
    assert made == [("fp32", {"nemo": True}), ("fp32", {}), ("fp32", {"compile": True})]
    assert rows["NeMo"]["speed ratio"] is None
    assert rows["ours"]["speed ratio"] > 1, "a faster step has a ratio above one"
    for name, row in rows.items():
        is_missing = "float8" in name
        assert (row["recordings/s"] is None) == (row["left out, as"] is not None) == is_missing, name
    if accelerators.folder_of("torchao") is not None:
        assert rows["ours, float8"]["left out, as"] == NO_GPU


@pytest.mark.slow
def test_the_row_of_float8_has_layers_in_float8(monkeypatch, capsys):
    """As on a GPU, but emulated."""
    pytest.importorskip("torchao", reason="`nemo_sortformer[fp8]` is not installed")
    here = Accelerator("torchao", True, "emulated", "tests")
    monkeypatch.setattr(training_step, "find_torchao", lambda: here)
    found = {}

    def apply_emulated(model: nn.Module, config, mesh):
        training_step_apply(model, config, mesh, emulate_fp8=True)
        kinds = [type(module).__name__ for module in model.modules()]
        found[config.fp8] = config.dtype, sum("Float8Linear" in kind for kind in kinds)

    training_step_apply = training_step.apply
    monkeypatch.setattr(training_step, "apply", apply_emulated)
    rows = {row["model"]: row for row in results(monkeypatch, capsys, "--fp8")["rows"]}
    assert rows["ours, float8"]["recordings/s"] > 0
    assert rows["ours, float8"]["left out, as"] is None
    # Conformer: five of attention, four of feed-forward networks; Transformer: four and two.
    assert found == {"off": ("fp32", 0), "on": ("bf16", 15)}


@pytest.mark.slow
def test_waits_are_counted(monkeypatch, capsys):
    calls = results(monkeypatch, capsys, "--waits")["calls"]
    assert set(calls) == {"NeMo", "ours"}
    assert all(set(counts) == set(training.WAITING) for counts in calls.values())


@pytest.mark.slow
def test_losses_in_each_precision_and_a_factor_that_overflows(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    start, steps = 2.0**22, 14
    arguments = ["--steps", str(steps), "--init-scale", str(start), "--growth-interval", "3"]
    training_curves.main([*SMALL, *arguments, "--out", str(tmp_path / "curves.json")])
    record = json.loads((tmp_path / "curves.json").read_text())
    curves = record["curves"]
    assert list(curves) == ["fp32", "bf16", "fp16"]
    assert list(record["left_out"]) == ["float8"]
    assert "float8 is left out: torchao is not usable: " in capsys.readouterr().out
    assert all(len(curve["loss"]) == steps for curve in curves.values())
    assert (tmp_path / "images" / "curves.png").read_bytes().startswith(b"\x89PNG")

    fp32, bf16, fp16 = (curves[name]["loss"] for name in curves)
    assert 0 < max(abs(a / b - 1) for a, b in zip(bf16, fp32, strict=True)) < 0.1, "rounding, and not more"
    assert curves["fp32"]["scale"] == curves["bf16"]["scale"] == []
    scale, skipped = curves["fp16"]["scale"], curves["fp16"]["skipped"]
    assert scale[0] == start
    assert skipped[0], "the first factor is too large for float16"
    assert not all(skipped)
    good = 0
    for step in range(steps - 1):
        good = 0 if skipped[step] else good + 1
        change = 0.5 if skipped[step] else 2.0 if good % 3 == 0 else 1.0
        assert scale[step + 1] == scale[step] * change, step
    assert record["rows"][2]["steps left out"] == sum(skipped)
    assert fp16[0] == pytest.approx(fp32[0], rel=5e-3), "without the factor"


def test_a_batch_has_four_speakers_who_arrive_in_order_each_with_a_tone():
    audio, audio_lengths, targets, lengths = training_step.make_batch(2, 16.0, "cpu")
    assert audio.shape == (2, 16 * 16000)
    assert audio_lengths.tolist() == [16 * 16000] * 2
    assert targets.shape == (2, 200, 4)
    assert lengths.tolist() == [200, 200]
    assert targets.sum(dim=2).eq(1).all(), "in turns"
    arrivals = targets.argmax(dim=1)
    assert (arrivals.diff(dim=1) > 0).all()
    for recording, speakers in zip(audio, targets.argmax(dim=2)):
        spectrum = torch.fft.rfft(recording.view(-1, training_step.HOP)).abs()
        tones = [spectrum[speakers == speaker].argmax(dim=1).float() for speaker in range(4)]
        assert all(tone.max() - tone.min() <= 1 for tone in tones), "one tone each, to a bin of 12.5 Hz"
    other = training_step.make_batch(2, 16.0, "cpu", seed=1)
    assert not torch.equal(targets, other[2])
