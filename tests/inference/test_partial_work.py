# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Work that survives: a killed process, half a record, a full disk, another model; and only the rest is done again."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from nemo_sortformer.cli import app
from nemo_sortformer.inference import partial_work, windows
from nemo_sortformer.inference.diarize import diarize_recordings
from nemo_sortformer.inference.partial_work import PartialWork, PartialWorkWarning
from nemo_sortformer.inference.windows import Outputs

WINDOWS = {"max_seconds_one_pass": 10.0, "overlap_seconds": 2.0, "memory_seconds": 2.0}


def outputs(seed: int) -> list[Outputs]:
    """Two windows' outputs, with and without embeddings."""
    rng = np.random.default_rng(seed)
    first = Outputs(rng.random((5, 4), np.float32), rng.random((5, 3), np.float32), rng.random((5, 2), np.float32))
    return [first, Outputs(rng.random((2, 4), np.float32), None)]


def assert_equal(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        for a, b in zip(one, other, strict=True):
            assert (a is None) == (b is None)
            assert a is None or np.array_equal(a, b)


def read_all(work):
    found = []
    while (step := work.next()) is not None:
        found.append(step)
    return found


def test_steps_come_back_in_order_and_more_can_follow(tmp_path):
    path = tmp_path / "deep" / "a.partial"
    for upto in range(4):
        with PartialWork(path, {"model": "m"}) as work:
            found = read_all(work)
            assert len(found) == upto
            for seed, step in enumerate(found):
                assert_equal(step, outputs(seed))
            work.add(outputs(upto))


def test_whatever_the_file_was_cut_to_its_good_records_count(tmp_path):
    path = tmp_path / "a.partial"
    with PartialWork(path, {}) as work:
        ends = []
        for seed in range(3):
            work.add(outputs(seed))
            ends.append(path.stat().st_size)
    content = path.read_bytes()
    header = len(partial_work._MAGIC) + 3
    for size in [0, *range(header, len(content), 97), *ends, ends[1] + 8, ends[1] + 16]:
        path.write_bytes(content[:size])
        with PartialWork(path, {}) as work:
            found = read_all(work)
            assert len(found) == sum(size >= end for end in ends)
            work.add(outputs(len(found)))
        with PartialWork(path, {}) as work:
            assert len(read_all(work)) == len(found) + 1
    path.write_bytes(content[: ends[1] + 40] + b"x" + content[ends[1] + 41 :])  # one byte of the last record
    with PartialWork(path, {}) as work:
        assert len(read_all(work)) == 2


def test_work_of_something_else_is_not_used(tmp_path):
    path = tmp_path / "a.partial"
    with PartialWork(path, {"model": "m", "bytes": 3}) as work:
        work.add(outputs(0))
    with PartialWork(path, {"model": "m", "bytes": 4}) as work:
        assert work.next() is None


def test_a_file_that_is_not_ours_is_not_touched(tmp_path):
    path = tmp_path / "a.partial"
    path.write_text("the user's own notes")
    with pytest.warns(PartialWorkWarning, match="another kind"):
        work = PartialWork(path, {})
    assert work.next() is None
    work.add(outputs(0))
    assert path.read_text() == "the user's own notes"


def test_two_runs_at_once_do_not_write_into_one_file(tmp_path):
    with PartialWork(tmp_path / "a.partial", {}) as first:
        first.add(outputs(0))
        with pytest.warns(PartialWorkWarning, match="another run"):
            second = PartialWork(tmp_path / "a.partial", {})
        assert second.next() is None
        second.add(outputs(1))
    with PartialWork(tmp_path / "a.partial", {}) as work:
        assert len(read_all(work)) == 1


def test_a_full_disk_stops_keeping_not_working(tmp_path, monkeypatch):
    with PartialWork(tmp_path / "a.partial", {}) as work:
        work.add(outputs(0))
        monkeypatch.setattr(partial_work.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.warns(PartialWorkWarning, match=r"No space left.*starts from the beginning"):
            work.add(outputs(1))
        work.add(outputs(2))
    with pytest.warns(PartialWorkWarning):
        assert PartialWork(tmp_path, {}).next() is None


@pytest.fixture
def counted(monkeypatch):
    """Counts the batches that the network runs."""
    runs = []
    real = windows.run_features
    monkeypatch.setattr(windows, "run_features", lambda *args: runs.append(1) or real(*args))
    return runs


@pytest.fixture
def kept_always(monkeypatch):
    """Keep the work on short recordings, too."""
    from nemo_sortformer.inference import outputs as outputs_module

    monkeypatch.setattr(outputs_module, "KEPT_SECONDS", 5.0)


@pytest.mark.parametrize("assignment", ["heads", "clustering"])
def test_an_interrupted_run_goes_on(tiny_model, wav, tmp_path, counted, kept_always, assignment):
    path = wav("meeting.wav", 45.0)
    options = WINDOWS | {"window_seconds": 8.0, "context_seconds": 1.0, "batch_size": 2}
    options["override_config"] = {"assignment": assignment}
    (whole,) = diarize_recordings(tiny_model, path, **options)
    total, told = len(counted), []
    counted.clear()

    def stop(name, done, number):
        told.append((name, done, number))
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        diarize_recordings(tiny_model, path, partial_dir=tmp_path / "work", on_windows=stop, **options)
    assert told[-1][:2] == ("meeting", 4)
    assert [p.name for p in (tmp_path / "work").iterdir()] == ["meeting.partial"]
    before = len(counted)
    (again,) = diarize_recordings(tiny_model, path, partial_dir=tmp_path / "work", **options)
    assert len(counted) == total, "what was done was not done again"
    assert before < total
    assert again == whole
    np.testing.assert_array_equal(again.probs, whole.probs)
    assert not list((tmp_path / "work").iterdir()), "done: nothing is left behind"


def test_another_setting_or_a_changed_file_begins_anew(tiny_model, wav, tmp_path, counted, kept_always):
    path = wav("meeting.wav", 30.0)

    def run(**changes):
        counted.clear()

        def stop(name, done, number):
            if done == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            diarize_recordings(tiny_model, path, partial_dir=tmp_path / "work", on_windows=stop, **WINDOWS | changes)
        return len(counted)

    assert run() == 2
    assert run() == 0
    assert run(memory_seconds=1.0) == 2
    assert run(memory_seconds=1.0) == 0
    wav("meeting.wav", 31.0, seed=4)
    assert run(memory_seconds=1.0) == 2


@pytest.mark.slow
def test_an_hour_killed_in_the_middle_goes_on_where_it_was(tiny_model, make_audio, tmp_path, counted):
    """The command is killed from outside, whenever that hits it; started again, it does the rest alone."""
    path, work = tmp_path / "hour.wav", tmp_path / "out" / "hour.partial"
    with soundfile.SoundFile(path, "w", 16000, 1, subtype="PCM_16") as file:
        for minute in range(60):
            file.write(make_audio(60.0, seed=minute))
    tiny_model.save_to(str(tmp_path / "tiny.nemo"))
    arguments = ["diarize", str(path), "--model", str(tmp_path / "tiny.nemo"), "--assignment", "heads"]
    arguments += ["--device", "cpu", "--output-dir", str(tmp_path / "out")]
    threads = str(torch.get_num_threads())  # the same sums in both processes
    with open(tmp_path / "log", "w") as log:
        command = [sys.executable, "-c", "from nemo_sortformer.cli import app; app()", *arguments]
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": threads})
        try:
            sizes = set()  # the header alone, then a window more each time
            while process.poll() is None and len(sizes) < 4:
                if work.exists():
                    sizes.add(work.stat().st_size)
                time.sleep(0.01)
        finally:
            process.kill()
    assert process.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()
    assert [file.name for file in work.parent.iterdir()] == ["hour.partial"], "no result, and what was done is kept"

    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 0, again.output
    assert "holds what an earlier run has done" in " ".join(again.output.split())
    assert [file.name for file in work.parent.iterdir()] == ["hour.rttm"], "done: nothing else is left behind"
    done_again = len(counted)
    unbroken = CliRunner().invoke(app, [*arguments[:-1], str(tmp_path / "whole")])
    assert unbroken.exit_code == 0, unbroken.output
    total = len(counted) - done_again
    assert 2 <= total - done_again < total, "some windows were kept, and only the others were run"
    whole = (tmp_path / "whole" / "hour.rttm").read_text()
    assert (tmp_path / "out" / "hour.rttm").read_text() == whole
    assert len(whole.splitlines()) > 1000
    assert float(whole.splitlines()[-1].split()[3]) > 3500
