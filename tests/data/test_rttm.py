# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""RTTM in all the states in which it is found."""

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_sortformer.data.rttm import (
    RttmError,
    RttmWarning,
    format_rttm,
    read_rttm,
    rttm_problems,
    select_recording,
    write_rttm,
)
from nemo_sortformer.data.segment import Segment, merge_overlaps

LINE = "SPEAKER {} 1 {} {} <NA> <NA> {} <NA> <NA>\n"


def write(tmp_path, text):
    path = tmp_path / "a.rttm"
    path.write_text(text)
    return path


def test_blank_lines_comments_and_other_line_types_are_skipped(tmp_path):
    path = write(
        tmp_path,
        ";; a comment\n\n   \n# another\nSPKR-INFO rec 1 <NA> <NA> <NA> unknown ann <NA> <NA>\n"
        "NOSCORE rec 1 0 1 <NA> <NA> <NA> <NA>\n" + LINE.format("rec", 1.5, 2.25, "ann"),
    )
    assert read_rttm(path) == {"rec": [Segment(1.5, 3.75, "ann")]}


@pytest.mark.parametrize(
    "line, words",
    [
        (LINE.format("rec", -1, 2, "ann"), "`start`.*`-1`"),
        (LINE.format("rec", "nan", 2, "ann"), "`start`.*`nan`"),
        (LINE.format("rec", 1, -2, "ann"), "`duration`.*`-2`"),
        (LINE.format("rec", 1, "inf", "ann"), "`duration`"),
        (LINE.format("rec", "1,5", 2, "ann"), "`start`.*`1,5`"),
        ("SPEAKER rec 1 0.5 2 <NA> <NA>\n", "8 fields or more, but has 7"),
        ("SPEAKR rec 1 0.5 2 <NA> <NA> ann <NA> <NA>\n", "`SPEAKR` is no line type"),
    ],
)
def test_a_bad_line_is_an_error_with_file_and_line(tmp_path, line, words):
    path = write(tmp_path, LINE.format("rec", 0, 1, "ann") + line)
    with pytest.raises(RttmError, match=words) as caught:
        read_rttm(path)
    assert str(caught.value).startswith(f"{path}:2: ")


def test_all_bad_lines_are_found(tmp_path):
    path = write(tmp_path, LINE.format("r", -1, 1, "a") + LINE.format("r", 1, 1, "a") + LINE.format("r", 1, -1, "a"))
    assert [str(problem).split(":")[1] for problem in rttm_problems(path)] == ["1", "3"]


def test_missing_and_binary_files_are_errors(tmp_path):
    with pytest.raises(RttmError, match="no such file"):
        read_rttm(tmp_path / "missing.rttm")
    (tmp_path / "b.rttm").write_bytes(b"\xff\xfe\x00RIFF")
    with pytest.raises(RttmError, match="cannot be read"):
        read_rttm(tmp_path / "b.rttm")


def test_an_empty_file_says_that_nobody_speaks(tmp_path):
    assert read_rttm(write(tmp_path, "")) == {}
    assert read_rttm(write(tmp_path, ""), recording="rec") == {"rec": []}


def test_a_speaker_who_overlaps_itself_is_merged_and_nobody_else_is(tmp_path):
    path = write(
        tmp_path,
        LINE.format("rec", 4, 2, "ann")
        + LINE.format("rec", 0, 3, "ann")
        + LINE.format("rec", 1, 1, "ann")
        + LINE.format("rec", 2, 1.5, "ann")
        + LINE.format("rec", 1, 3, "bob")
        + LINE.format("rec", 6, 1, "ann")  # touches: a turn of its own
        + LINE.format("rec", 9, 0, "ann"),  # no length: nothing
    )
    assert read_rttm(path)["rec"] == [
        Segment(0, 3.5, "ann"),
        Segment(1, 4, "bob"),
        Segment(4, 6, "ann"),
        Segment(6, 7, "ann"),
    ]


def test_other_recordings_are_kept_apart(tmp_path):
    path = write(tmp_path, LINE.format("one", 0, 1, "ann") + LINE.format("two", 5, 1, "bob"))
    assert set(read_rttm(path)) == {"one", "two"}
    assert read_rttm(path, recording="two") == {"two": [Segment(5, 6, "bob")]}
    both = read_rttm(path)
    assert select_recording(both, ["no", "one"], source=path) == both["one"]
    with pytest.raises(RttmError, match="holds 2 recordings.*none is called `three`"):
        select_recording(both, ["three", None], source=path)


def test_a_single_recording_of_another_name_is_used_with_a_warning():
    only = {"meeting.Mix-Headset": [Segment(0, 1, "ann")]}
    with pytest.warns(RttmWarning, match="not `meeting`"):
        assert select_recording(only, ["meeting"], source="a.rttm") == only["meeting.Mix-Headset"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert select_recording({}, ["meeting"], source="a.rttm") == []
        assert select_recording({"my_file": []}, ["my file"], source="a.rttm") == []


times = st.integers(0, 100_000).map(lambda milliseconds: milliseconds / 1000)
segment = st.builds(
    lambda start, length, speaker: Segment(start, round(start + length + 0.001, 3), speaker),
    times,
    times,
    st.sampled_from("abc"),
)


@given(segments=st.lists(segment, max_size=12))
def test_what_is_written_is_read_again(tmp_path_factory, segments):
    path = tmp_path_factory.mktemp("rttm") / "a.rttm"
    write_rttm(path, segments, "my recording")
    assert read_rttm(path, recording="my_recording")["my_recording"] == merge_overlaps(segments)


@given(segments=st.lists(segment, max_size=12))
def test_merging_keeps_who_speaks_at_every_instant(segments):
    merged = merge_overlaps(segments)
    for instant in [time + 0.0005 for s in segments for time in (s.start, s.end)]:
        before = {s.speaker for s in segments if s.start <= instant < s.end}
        after = [s.speaker for s in merged if s.start <= instant < s.end]
        assert sorted(before) == sorted(after)  # nobody twice
    assert merge_overlaps(merged) == merged


def test_names_with_blanks_and_tiny_segments_survive():
    text = format_rttm([Segment(1.0, 1.0001, "ann lee")], "a b")
    assert text == "SPEAKER a_b 1 1.000 0.001 <NA> <NA> ann_lee <NA> <NA>\n"
