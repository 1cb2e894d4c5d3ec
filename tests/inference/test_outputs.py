# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Which file a recording gets, and that no file is lost to one."""

from pathlib import Path

import pytest

from nemo_sortformer.data.segment import Segment
from nemo_sortformer.inference.outputs import blocked_output, check_formats, output_paths, write_result
from nemo_sortformer.inference.results import Diarization
from nemo_sortformer.inference.sources import AudioSource

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
