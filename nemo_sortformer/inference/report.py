# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The timeline of a recording as a picture: truth above, answer below, errors marked in a strip.

Long recordings are broken into lines of equal length like a text, so that a minute and an hour are both readable.
The figure is made with matplotlib's objects alone: pyplot and its global state are never touched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nemo_sortformer.data.segment import Segment
from nemo_sortformer.inference.compare import ErrorInterval, error_intervals, match_speakers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from nemo_sortformer.inference.results import Diarization

SPEAKER_COLORS = ("#4477AA", "#EE8866", "#44AA77", "#AA77BB", "#CCAA33", "#66BBDD", "#887766", "#DD88AA")
"""One per speaker, told apart by colour-blind readers too; more speakers begin again with a lighter shade."""
ERROR_COLORS = {"missed": "#222222", "false alarm": "#DD2222", "confusion": "#BB00BB"}
"""Lanes of the error strip, from its top to its bottom; none is a speaker's colour."""
LINE_SECONDS = (10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 300, 600, 1200, 1800, 3600)
"""A line of the picture covers one of these."""
MAX_LINES = 12
WIDTH_INCHES, LEFT, RIGHT = 14.0, 0.085, 0.982
STRIP_ROWS = 1.6
"""Height of the error strip in rows of a speaker."""


class Row(NamedTuple):
    """One speaker's row: label, colour, turns as (start, width), and the probabilities drawn behind the turns."""

    label: str
    color: str
    spans: list[tuple[float, float]]
    probs: np.ndarray | None = None


def plot_timeline(
    diarization: Diarization,
    *,
    reference: Sequence[Segment] | None = None,
    path: str | Path | None = None,
    title: str | None = None,
    time_text: Callable[[float], str] | None = None,
    nobody: str = "nobody speaks",
    line_seconds: float | None = None,
) -> Figure:
    """Draw who spoke when, and where that is wrong.

    Args:
        diarization: the answer; its probabilities, where kept, are tinted behind its segments.
        reference: the truth, times in seconds of the same file; what lies outside the diarized part is not drawn.
        path: where to save the picture, too; the suffix chooses PNG, PDF or SVG.
        title: first line of the picture, instead of the recording's name.
        time_text: how a time is written; None is :func:`clock`.
        nobody: what stands where there is neither a truth nor an answer.
        line_seconds: length of a line; None chooses it by the length of the recording.

    Returns:
        The figure, one pair of axes per line. Speakers of truth and answer have one colour where the best mapping
        matches them.

    Raises:
        ValueError: `path` has a suffix that matplotlib cannot write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    time_text = time_text or clock
    start, end = _extent(diarization, reference)
    line_seconds = line_seconds or _line_seconds(end - start)
    num_lines = max(1, math.ceil((end - start) / line_seconds - 1e-6))
    truth = None if reference is None else _clip(reference, start, end)
    truth_rows, answer_rows = _rows(diarization, truth)
    errors = [] if truth is None else error_intervals(truth, diarization.segments)

    num_rows = max(len(truth_rows) + len(answer_rows), 1) + (0 if truth is None else STRIP_ROWS)
    row_inches = 0.3 if num_lines == 1 else 0.24 if num_lines <= 4 else 0.17
    line_inches, gap_inches = num_rows * row_inches, 0.42
    height = 0.5 + num_lines * (line_inches + gap_inches)
    figure = Figure(figsize=(WIDTH_INCHES, height))
    FigureCanvasAgg(figure)
    for line in range(num_lines):
        top = 1 - (0.52 + line * (line_inches + gap_inches)) / height
        axes = figure.add_axes((LEFT, top - line_inches / height, RIGHT - LEFT, line_inches / height))
        left, right = start + line * line_seconds, start + (line + 1) * line_seconds
        _draw_line(axes, truth_rows, answer_rows, errors, has_truth=truth is not None, nobody=nobody)
        _tint(axes, answer_rows, diarization, len(truth_rows), left, right)
        _finish_line(axes, left, right, end, time_text)
    name = title or f"{diarization.recording}   ({time_text(end - start)})"
    figure.text(LEFT, 1 - 0.26 / height, name, fontsize=12, fontweight="bold", va="center")
    if truth is not None:
        _legend(figure, truth, errors, height)
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
    return figure


def clock(seconds: float, *, tenths: bool = False) -> str:
    """Seconds as a person reads them: `0:07.5`, `12:30`, `1:02:03`; with `tenths` also `12:30.0`."""
    whole, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(whole), 60)
    tail = f"{rest:02.0f}" if not tenths and abs(rest - round(rest)) < 0.05 else f"{rest:04.1f}"
    return f"{hours}:{minutes:02d}:{tail}" if hours else f"{minutes}:{tail}"


def _extent(diarization: Diarization, reference: Sequence[Segment] | None) -> tuple[float, float]:
    start, end = diarization.offset, diarization.offset + diarization.duration
    if diarization.duration <= 0:  # a reference or a bare answer without a known length
        end = max([start, *(s.end for s in diarization.segments), *(s.end for s in reference or ())])
    return start, max(end, start + 0.1)


def _line_seconds(seconds: float) -> float:
    """The shortest line that keeps the picture within its lines: 1 line to 90 s, about 6 to 12 lines beyond."""
    if seconds <= 90:
        return seconds
    wished = seconds / min(MAX_LINES, max(2, math.ceil(seconds / 90)))
    return next((length for length in LINE_SECONDS if length >= wished - 1e-6), math.ceil(wished / 3600) * 3600)


def _clip(segments: Sequence[Segment], start: float, end: float) -> list[Segment]:
    clipped = (Segment(max(s.start, start), min(s.end, end), s.speaker) for s in segments)
    return sorted(s for s in clipped if s.end > s.start)


def speaker_color(index: int) -> str:
    """Colour of the speaker of this index; the second round through the palette is lighter."""
    base, round_number = SPEAKER_COLORS[index % len(SPEAKER_COLORS)], index // len(SPEAKER_COLORS)
    if round_number == 0:
        return base
    channels = (int(base[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{int(255 - (255 - c) * 0.55 ** min(round_number, 2)):02X}" for c in channels)


def _rows(diarization: Diarization, truth: list[Segment] | None) -> tuple[list[Row], list[Row]]:
    truth_names = list(dict.fromkeys(s.speaker for s in truth or ()))
    colors = {name: speaker_color(i) for i, name in enumerate(truth_names)}
    mapping = match_speakers(truth, diarization.segments) if truth else {}
    truth_rows = [Row(name, colors[name], _spans(truth or (), name)) for name in truth_names]
    answer_rows, used = [], len(truth_names)
    order = diarization.speakers
    if mapping:  # matched speakers stand in the order of the truth, the others below them
        rank = {name: i for i, name in enumerate(truth_names)}
        order = tuple(sorted(order, key=lambda name: rank.get(mapping.get(name, ""), len(rank))))
    for name in order:
        if name in mapping:
            color = colors[mapping[name]]
        else:
            color, used = speaker_color(used), used + 1
        answer_rows.append(Row(name, color, _spans(diarization.segments, name), _column(diarization, name)))
    return truth_rows, answer_rows


def _spans(segments: Sequence[Segment], name: str) -> list[tuple[float, float]]:
    return [(s.start, s.end - s.start) for s in segments if s.speaker == name]


def _column(diarization: Diarization, name: str) -> np.ndarray | None:
    number = name.rpartition("_")[2]
    if diarization.probs is None or not number.isdigit() or int(number) >= diarization.probs.shape[1]:
        return None
    return np.asarray(diarization.probs[:, int(number)], dtype=np.float32)


def _draw_line(
    axes: Axes,
    truth_rows: list[Row],
    answer_rows: list[Row],
    errors: list[ErrorInterval],
    *,
    has_truth: bool,
    nobody: str,
) -> None:
    """Rows stand at y = 0, 1, 2, ... downwards; the strip of errors is below them."""
    rows = [*truth_rows, *answer_rows]
    for y, row in enumerate(rows):
        axes.axhline(y, color="#E4E4E4", linewidth=0.6, zorder=0)
        axes.broken_barh(
            row.spans, (y - 0.36, 0.72), facecolors=row.color, edgecolors="white", linewidth=0.4, zorder=3
        )
    bottom = max(len(rows), 1) - 0.5
    if has_truth:
        split = len(truth_rows) - 0.5
        axes.axhline(split, color="#888888", linewidth=0.8, zorder=4)
        axes.axhline(bottom, color="#888888", linewidth=0.8, zorder=4)
        strip = STRIP_ROWS
        axes.axhspan(bottom, bottom + strip, facecolor="#F6F4EC", zorder=0)
        lane = strip / 3
        for number, kind in enumerate(ERROR_COLORS):
            spans = [(e.start, e.end - e.start) for e in errors if getattr(e, kind.replace(" ", "_"))]
            top = bottom + (number + 0.1) * lane
            axes.broken_barh(spans, (top, 0.8 * lane), facecolors=ERROR_COLORS[kind], linewidth=0, zorder=3)
        bottom += strip
        names = [f"truth  {_short(row.label)}" for row in truth_rows]
        names += [f"answer  {_short(row.label)}" for row in answer_rows]
        ticks, labels = [*range(len(rows)), bottom - strip / 2], [*names, "errors"]
    else:
        ticks, labels = [*range(len(rows))], [_short(row.label) for row in rows]
    axes.set_ylim(bottom, -0.5)
    axes.set_yticks(ticks, labels, fontsize=7.5)
    for tick, row in zip(axes.get_yticklabels(), rows, strict=False):
        tick.set_color(row.color)
    if not rows:
        axes.text(0.5, 0.5, nobody, transform=axes.transAxes, ha="center", va="center", color="#777777")


def _tint(axes: Axes, rows: list[Row], diarization: Diarization, first_y: int, left: float, right: float) -> None:
    """The probabilities of the answered speakers behind their turns, between two times."""
    if diarization.probs is None:
        return
    first = max(int((left - diarization.offset) / diarization.frame_seconds) - 1, 0)
    last = max(math.ceil((right - diarization.offset) / diarization.frame_seconds) + 1, 0)
    for y, row in enumerate(rows, start=first_y):
        if row.probs is not None and len(row.probs[first:last]):
            probs = row.probs[first:last]
            times = diarization.offset + diarization.frame_seconds * (first + np.arange(len(probs)))
            low = y + 0.42
            axes.fill_between(times, low, low - 0.84 * probs, step="mid", color=row.color, alpha=0.28, linewidth=0)


def _finish_line(axes: Axes, left: float, right: float, end: float, time_text: Callable[[float], str]) -> None:
    """Time axis of one line; time after the end of the recording is shaded."""
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    axes.set_xlim(left, right)
    step = next(s for s in (0.1, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1e9) if (right - left) / s <= 16)
    axes.xaxis.set_major_locator(MultipleLocator(step))
    axes.xaxis.set_minor_locator(MultipleLocator(step / 5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: time_text(value)))
    axes.tick_params(axis="x", labelsize=8, length=3, pad=2)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.5, zorder=0)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    if right > end:
        axes.axvspan(end, right, facecolor="#EEEEEE", zorder=5)


def _legend(figure: Figure, truth: list[Segment], errors: list[ErrorInterval], height: float) -> None:
    """The error rate and its parts, right of the title, in the colours of the strip."""
    from matplotlib.patches import Patch

    speech = sum(s.end - s.start for s in truth)
    seconds = {
        kind: sum(getattr(e, kind.replace(" ", "_")) * (e.end - e.start) for e in errors) for kind in ERROR_COLORS
    }
    handles = [
        Patch(facecolor="none", edgecolor="none", label=_rate("DER (no collar)", sum(seconds.values()), speech))
    ]
    for kind, color in ERROR_COLORS.items():
        handles.append(Patch(facecolor=color, label=_rate(kind, seconds[kind], speech)))
    figure.legend(
        handles=handles,
        loc="center right",
        bbox_to_anchor=(RIGHT + 0.008, 1 - 0.26 / height),
        ncols=len(handles),
        frameon=False,
        fontsize=9,
        handlelength=0.9,
        handletextpad=0.5,
        columnspacing=1.6,
    )


def _rate(name: str, seconds: float, speech: float) -> str:
    return f"{name} {100 * seconds / speech:.1f} %" if speech > 0 else f"{name} {seconds:.1f} s"


def _short(label: str) -> str:
    return label if len(label) <= 14 else label[:6] + "\u2026" + label[-7:]
