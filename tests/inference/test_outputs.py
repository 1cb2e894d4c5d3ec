# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Which file a recording gets, and that no file is lost to one."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_sortformer.data.segment import Segment
from nemo_sortformer.inference.outputs import ENDINGS, blocked_output, check_formats, output_paths, write_result
from nemo_sortformer.inference.results import Diarization
from nemo_sortformer.inference.sources import AudioSource

RESULT = Diarization(recording="talk", segments=(Segment(0.0, 1.0, "speaker_0"),), duration=2.0)
SOURCE = AudioSource(name="talk", path=Path("/data/talk.wav"))


def test_results_lie_beside_the_audio_or_in_the_folder():
    assert output_paths(SOURCE, ["rttm"]) == {"rttm": Path("/data/talk.rttm")}
    assert output_paths(SOURCE, ["json", "png"], "out") == {
        "json": Path("out/talk.seglst.json"),
        "png": Path("out/talk.png"),
    }
    odd = AudioSource(name="a/b:c", path=Path("/data/x.wav"))
    assert output_paths(odd, ["rttm"], "out") == {"rttm": Path("out/a_b_c.rttm")}


def test_existing_files_stay_unless_told(tmp_path):
    paths = output_paths(SOURCE, ["rttm"], tmp_path)
    assert blocked_output(SOURCE, paths, overwrite=False) is None
    paths["rttm"].write_text("mine")
    assert "--overwrite" in blocked_output(SOURCE, paths, overwrite=False)
    assert blocked_output(SOURCE, paths, overwrite=True) is None


def test_the_truth_that_a_manifest_names_is_never_replaced():
    source = AudioSource(name="talk", path=Path("/data/talk.wav"), rttm_filepath=Path("/data/talk.rttm"))
    assert "reference" in blocked_output(source, output_paths(source, ["rttm"]), overwrite=True)


def test_all_formats_are_written(tmp_path):
    result = Diarization(recording="talk", segments=(Segment(0.0, 1.0, "speaker_0"),), duration=2.0)
    formats = check_formats(["RTTM", "json ", "audacity", "png", "rttm"])
    paths = output_paths(SOURCE, formats, tmp_path / "new")
    write_result(result, paths, reference=[Segment(0.0, 1.5, "Ann")])
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == [
        "talk.labels.txt", "talk.png", "talk.rttm", "talk.seglst.json",
    ]  # fmt: skip


@pytest.mark.parametrize("formats", [["wav"], [], [""]])
def test_unknown_formats(formats):
    with pytest.raises(ValueError, match="rttm, json, audacity, png"):
        check_formats(formats)


@pytest.mark.parametrize("kind", ["rttm", "json", "audacity", "png"])
def test_a_full_disk_leaves_the_old_file_whole(tmp_path, monkeypatch, kind):
    paths = {kind: tmp_path / f"talk{ENDINGS[kind]}"}
    write_result(RESULT, paths)
    old = paths[kind].read_bytes()
    real = os.fsync

    def full(descriptor):
        real(descriptor)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_result(replace(RESULT, segments=()), paths)
    assert paths[kind].read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == [paths[kind].name], "nothing half-written is left"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_disk_that_is_really_full_leaves_the_old_file_whole(tmp_path, monkeypatch):
    paths = {"rttm": tmp_path / "talk.rttm"}
    write_result(RESULT, paths)
    old = paths["rttm"].read_bytes()
    many = replace(RESULT, segments=RESULT.segments * 5000)

    def write_to_a_full_disk(self, text, **_):
        with open("/dev/full", "w") as file:
            file.write(text)

    monkeypatch.setattr(Path, "write_text", write_to_a_full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_result(many, paths)
    assert paths["rttm"].read_bytes() == old
