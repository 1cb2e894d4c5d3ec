# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""SegLST: read, written, and its faults named."""

import json

import pytest

from nemo_sortformer.data.seglst import SeglstError, read_seglst, seglst_records, write_seglst
from nemo_sortformer.data.segment import Segment

GOOD = {"session_id": "rec", "speaker": "ann", "start_time": "1.5", "end_time": 2.0, "words": "hello there"}


def write(tmp_path, value):
    path = tmp_path / "a.seglst.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_times_may_be_text_and_words_are_kept(tmp_path):
    path = write(tmp_path, [GOOD, {**GOOD, "session_id": "other", "speaker": 7}])
    assert read_seglst(path) == {"rec": [Segment(1.5, 2.0, "ann")], "other": [Segment(1.5, 2.0, "7")]}
    assert read_seglst(path, recording="rec") == {"rec": [Segment(1.5, 2.0, "ann")]}
    assert seglst_records(path)[0]["words"] == "hello there"


def test_what_is_written_is_read_again(tmp_path):
    segments = [Segment(0.0, 1.25, "ann"), Segment(1.0, 3.0, "bob")]
    write_seglst(tmp_path / "a.json", segments, "rec", words=["guten Tag", "schön"])
    assert read_seglst(tmp_path / "a.json") == {"rec": segments}
    assert [record["words"] for record in seglst_records(tmp_path / "a.json")] == ["guten Tag", "schön"]
    with pytest.raises(ValueError, match="one entry per segment, 2, but has 1"):
        write_seglst(tmp_path / "a.json", segments, "rec", words=["one"])


@pytest.mark.parametrize(
    "value, words",
    [
        ("not json", "not JSON"),
        ({"a": 1}, "must be a JSON list"),
        ([GOOD, "x"], "segment 2: must be a JSON object"),
        ([{**GOOD, "speaker": None}], "`speaker` is missing"),
        ([{**GOOD, "start_time": -1}], "`start_time` must be 0 or more seconds, but is -1"),
        ([{**GOOD, "end_time": "nan"}], "`end_time` must be 0 or more"),
        ([{**GOOD, "end_time": 1.0}], "`end_time` must not be before"),
    ],
)
def test_faults_are_named(tmp_path, value, words):
    path = write(tmp_path, value)
    with pytest.raises(SeglstError, match=words) as caught:
        read_seglst(path)
    assert str(caught.value).startswith(str(path))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SeglstError, match="no such file"):
        read_seglst(tmp_path / "missing.json")
