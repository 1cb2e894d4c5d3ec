# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The benchmark of the number of slots runs, and gives a row for each."""

import sys

import pytest

from benchmarks import slots


@pytest.mark.slow
def test_the_benchmark_reports_every_number_of_slots(monkeypatch, capsys):
    small = ["--batch", "2", "--frames", "40", "--hidden-size", "16", "--layers", "2", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", ["slots", "--slots", "2", "9", *small])
    slots.main()
    printed = capsys.readouterr().out
    assert "| sorted | 2 |" in printed
    assert "| sorted + permutation-invariant | 9 |" in printed


def test_the_labels_use_all_slots():
    embeddings, lengths, targets, _ = slots.make_batch(5, 2, 40, "cpu")
    assert targets.shape == (2, 40, 5)
    assert (targets.sum(dim=1) == 8).all()
    assert embeddings.shape[:2] == (2, 40)
    assert lengths.tolist() == [40, 40]
