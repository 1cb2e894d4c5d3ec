# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The picture: what stands in it, and that it is readable from a second to an hour."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_hex

from nemo_sortformer.data.segment import Segment
from nemo_sortformer.inference.report import (
    ERROR_COLORS,
    MAX_LINES,
    SPEAKER_COLORS,
    clock,
    plot_timeline,
    speaker_color,
)
from nemo_sortformer.inference.results import Diarization

TRUTH = [Segment(1.0, 5.0, "Ann"), Segment(5.0, 9.0, "Bob")]
ANSWER = (Segment(1.0, 4.0, "speaker_0"), Segment(6.0, 9.5, "speaker_1"))


def diarization(segments=ANSWER, duration=10.0, **more):
    return Diarization(recording="talk", segments=segments, duration=duration, **more)


def bars(axes):
    """(row, colour, start, end) of every bar that is drawn."""
    found = []
    for collection in axes.collections:
        for path in collection.get_paths():
            if len(path.vertices) == 5:
                low, high = path.vertices.min(axis=0), path.vertices.max(axis=0)
                color = to_hex(collection.get_facecolor()[0]).upper()
                found.append((float((low[1] + high[1]) / 2), color, float(low[0]), float(high[0])))
    return found


def test_truth_stands_above_the_answer_and_matched_speakers_have_one_colour():
    axes = plot_timeline(diarization(), reference=TRUTH).axes[0]
    labels = [tick.get_text() for tick in axes.get_yticklabels()]
    assert labels == ["truth  Ann", "truth  Bob", "answer  speaker_0", "answer  speaker_1", "errors"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "row 0 is at the top"
    colors = {round(row): color for row, color, _, _ in bars(axes) if row < 3.5}
    assert colors[0] == colors[2] == SPEAKER_COLORS[0]
    assert colors[1] == colors[3] == SPEAKER_COLORS[1]


def test_the_strip_marks_each_kind_of_error_in_its_lane():
    axes = plot_timeline(diarization(), reference=TRUTH).axes[0]
    marked = {(color, start, end) for _, color, start, end in bars(axes)}
    missed, false_alarm = ERROR_COLORS["missed"].upper(), ERROR_COLORS["false alarm"].upper()
    assert {(missed, 4.0, 5.0), (missed, 5.0, 6.0), (false_alarm, 9.0, 9.5)} <= marked
    assert not any(color == ERROR_COLORS["confusion"] for color, _, _ in marked)


def test_the_legend_gives_the_error_rate_and_its_parts():
    texts = [t.get_text() for t in plot_timeline(diarization(), reference=TRUTH).legends[0].get_texts()]
    assert texts == ["DER (no collar) 31.2 %", "missed 25.0 %", "false alarm 6.2 %", "confusion 0.0 %"]


def test_an_unmatched_speaker_has_a_colour_of_its_own():
    extra = (*ANSWER, Segment(9.6, 9.9, "speaker_2"))
    axes = plot_timeline(diarization(extra), reference=TRUTH).axes[0]
    colors = {round(row): color for row, color, _, _ in bars(axes) if row < 4.5}
    assert colors[4] == SPEAKER_COLORS[2]


@pytest.mark.parametrize("minutes, lines", [(0.02, 1), (1, 1), (1.5, 1), (3, 2), (10, 7), (60, 12), (180, 9)])
def test_long_recordings_are_broken_into_lines(minutes, lines):
    figure = plot_timeline(diarization(duration=60.0 * minutes), reference=TRUTH)
    assert len(figure.axes) == lines <= MAX_LINES
    covered = [axes.get_xlim() for axes in figure.axes]
    assert covered[0][0] == 0
    assert covered[-1][1] >= 60 * minutes - 1e-6
    assert all(a[1] == pytest.approx(b[0]) for a, b in zip(covered, covered[1:], strict=False))


def test_a_stretch_of_a_file_is_drawn_where_it_lies():
    part = diarization((Segment(101.0, 104.0, "speaker_0"),), offset=100.0)
    axes = plot_timeline(part, reference=[Segment(90.0, 103.0, "Ann"), Segment(120.0, 130.0, "Bob")]).axes[0]
    assert axes.get_xlim() == (100.0, 110.0)
    assert (100.0, 103.0) in {(start, end) for row, _, start, end in bars(axes) if round(row) == 0}
    assert "truth  Bob" not in [tick.get_text() for tick in axes.get_yticklabels()], "Bob is outside"


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_the_picture_is_saved_as_its_suffix_says(suffix, tmp_path):
    path = tmp_path / "deep" / f"talk.{suffix}"
    probs = np.random.default_rng(0).random((125, 2), dtype=np.float32)
    diarization(probs=probs).plot(path, reference=TRUTH)
    start = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[suffix]
    assert path.read_bytes().startswith(start)


def test_nobody_at_all_can_be_drawn():
    for reference in (None, [], TRUTH):
        assert plot_timeline(diarization((), duration=0.05), reference=reference).axes


def test_pyplot_stays_out():
    code = (
        "import sys; from nemo_sortformer.inference.results import Diarization as D; "
        "D(recording='x', segments=(), duration=9.0).plot(); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "seconds, text", [(0, "0:00"), (7.5, "0:07.5"), (59.97, "1:00"), (750, "12:30"), (3723, "1:02:03")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text
    assert clock(seconds, tenths=True) == (text if "." in text else f"{text}.0")


def test_sixteen_speakers_have_sixteen_colours():
    assert len({speaker_color(k) for k in range(16)}) == 16
    assert not {speaker_color(k) for k in range(16)} & set(ERROR_COLORS.values())
