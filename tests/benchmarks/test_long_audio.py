# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The benchmark of long audio: ratios by hand, a process that takes too much memory, and one whole small run."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import long_audio
from benchmarks.long_audio import rows_of, run_process

ROOT = Path(__file__).resolve().parents[2]


def test_ratios_and_differences_by_hand(tmp_path):
    np.save(tmp_path / "60 nemo.npy", np.zeros((10, 4)))
    np.save(tmp_path / "60 ours.npy", np.full((9, 4), 0.25))
    found = {
        "nemo": {"seconds": 6.0, "cpu_seconds": 5.5, "bytes": 800},
        "ours": {"seconds": 2.0, "cpu_seconds": 1.5, "bytes": 200},
    }
    theirs, ours = rows_of(60.0, found, tmp_path)
    assert (theirs["time ratio"], theirs["difference"]) == (None, None)
    assert (ours["time ratio"], ours["memory ratio"], ours["difference"]) == (3.0, 4.0, 0.25)
    assert ours["times real time"] == 30.0
    theirs, ours = rows_of(60.0, found | {"nemo": {"failed": "over 20 GB"}}, tmp_path)
    assert theirs["note"] == "over 20 GB"
    assert theirs["time [s]"] is ours["time ratio"] is None
    assert ours["time [s]"] == 2.0


def test_a_process_over_its_memory_is_stopped(tmp_path, monkeypatch):
    arguments = argparse.Namespace(threads=1, rounds=1, max_gigabytes=0.001)
    assert run_process("nemo", tmp_path, tmp_path / "a.wav", arguments) == {"failed": "over 0.001 GB"}
    arguments.max_gigabytes = 20.0
    assert run_process("nemo", tmp_path, tmp_path / "a.wav", arguments)["failed"].startswith("failed: ")
    assert long_audio.largest_difference(tmp_path, 60.0, "ours", "nemo") is None


@pytest.mark.slow
def test_a_small_run_of_the_whole():
    command = [sys.executable, "-m", "benchmarks.long_audio", "--seconds", "3", "--only-ours", "4"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert [(row["recording [s]"], row["who"]) for row in rows] == [(3, "nemo"), (3, "ours"), (4, "ours")]
    assert all(row["time [s]"] > 0 and row["note"] is None for row in rows)
    assert rows[1]["difference"] < 1e-5
