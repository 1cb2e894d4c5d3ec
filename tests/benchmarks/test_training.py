# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The benchmark of training steps runs in its small form, with both models on one batch."""

import sys

import pytest

from benchmarks import training


@pytest.mark.slow
@pytest.mark.parametrize("extra", [["--recompute"], ["--curve", "2", "--dtype", "bf16"], ["--waits"]])
def test_the_small_form_runs(monkeypatch, capsys, extra):
    small = ["--layers", "1", "--seconds", "2", "--batch", "1", "--rounds", "1", *extra]
    monkeypatch.setattr(sys, "argv", ["training", *small])
    training.main()
    printed = capsys.readouterr().out
    assert '"benchmark": "training' in printed


def test_a_batch_has_four_speakers_in_turn():
    audio, audio_lengths, targets, lengths = training.make_batch(2, 4.0, "cpu")
    assert audio.shape == (2, 64000)
    assert audio_lengths.tolist() == [64000, 64000]
    assert targets.shape == (2, 50, 4)
    assert lengths.tolist() == [50, 50]
    assert targets.sum(dim=(0, 1)).tolist() == [26.0, 24.0, 26.0, 24.0]
