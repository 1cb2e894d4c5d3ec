# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What scores say: rates with bootstrap intervals, tables, what limits a system, and one picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_sortformer.inference.score import CONDITIONS, Condition, ErrorCounts, RecordingScore, ScoreReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WITH_COLLAR, WITHOUT_COLLAR = Condition(0.25, False), Condition(0.0, False)
RESAMPLES, SEED, LEVEL = 2000, 0, 0.9
PARTS = ("missed", "false_alarm", "confusion")
PART_COLORS = {"missed": "#33435C", "false_alarm": "#E1A037", "confusion": "#B14A6D"}
COUNT_COLORS = {"2": "#8FB8D8", "3": "#4A86B8", "4": "#1F4E79"}


def resampled_rates(
    errors: Sequence[float], totals: Sequence[float], *, seed: int = SEED, resamples: int = RESAMPLES
) -> np.ndarray:
    """Pooled rates sum(errors) / sum(totals) of recordings drawn with replacement, shape (resamples,).

    With one seed, systems scored on the same recordings get the same draws: their differences are paired.
    A draw without any speech has the rate 0.
    """
    counts = np.array([errors, totals], dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(0, counts.shape[1], (resamples, counts.shape[1]))
    error, total = counts[:, drawn].sum(axis=2)
    return np.divide(error, total, out=np.zeros(resamples), where=total > 0)


def interval(samples: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The middle `level` of bootstrap samples, by percentiles; both ends are equal where there is one recording."""
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return round(float(low), 6), round(float(high), 6)


def der_samples(report: ScoreReport, condition: Condition = WITH_COLLAR) -> np.ndarray:
    """Bootstrap samples of DER over the recordings of a report, shape (RESAMPLES,)."""
    counts = [score.counts[condition] for score in report.recordings]
    return resampled_rates([_errors(count) for count in counts], [count.speech for count in counts])


def summarize(report: ScoreReport) -> dict[str, Any]:
    """Rates of a report with intervals, as JSON can hold them: over `all`, and per true number of speakers."""
    numbers = sorted({score.true_speakers for score in report.recordings})
    groups = {"all": report.recordings}
    groups |= {str(n): tuple(s for s in report.recordings if s.true_speakers == n) for n in numbers}
    return {name: _summarize_group(ScoreReport(recordings=scores)) for name, scores in groups.items()}


def _summarize_group(report: ScoreReport) -> dict[str, Any]:
    summary: dict[str, Any] = {"recordings": len(report.recordings)}
    for condition in (WITH_COLLAR, WITHOUT_COLLAR):
        rates = {key: report.total(condition).to_dict()[key] for key in ("der", *PARTS, "speech_seconds")}
        summary[f"collar_{condition.collar:g}"] = {**rates, "interval": interval(der_samples(report, condition))}
    counts = [score.counts[WITHOUT_COLLAR] for score in report.recordings]
    right = [float(score.true_speakers == score.answered_speakers) for score in report.recordings]
    return {
        **summary,
        "jer": round(report.total(WITHOUT_COLLAR).jer, 6),
        "jer_interval": interval(resampled_rates([c.jaccard for c in counts], [c.speakers for c in counts])),
        "speaker_count_accuracy": round(report.speaker_count_accuracy, 6),
        "speaker_count_interval": interval(resampled_rates(right, [1.0] * len(right))),
    }


def find_limits(report: ScoreReport, *, worst: int = 3) -> dict[str, Any]:
    """Where the error of a system is: by kind, number of speakers, overlap and speaker count; the worst recordings.

    All at collar 0.25 s. A `share` is of the error seconds of all recordings.
    """
    total = report.total(WITH_COLLAR)
    everything = _errors(total) or 1.0

    def group(chosen: Callable[[RecordingScore], bool]) -> dict[str, Any]:
        part = ScoreReport(recordings=tuple(score for score in report.recordings if chosen(score)))
        counts = part.total(WITH_COLLAR)
        share = round(_errors(counts) / everything, 4)
        return {"recordings": len(part.recordings), "der": round(counts.der, 4), "error_share": share}

    numbers = sorted({score.true_speakers for score in report.recordings})
    ranked = sorted(report.recordings, key=lambda score: -score.counts[WITH_COLLAR].der)[:worst]
    alone = report.total(CONDITIONS[2])
    return {
        "error_share": {kind: round(getattr(total, kind) / everything, 4) for kind in PARTS},
        "by_speakers": {str(n): group(lambda score, n=n: score.true_speakers == n) for n in numbers},
        "count_right": group(lambda score: score.true_speakers == score.answered_speakers),
        "too_few_speakers": group(lambda score: score.answered_speakers < score.true_speakers),
        "too_many_speakers": group(lambda score: score.answered_speakers > score.true_speakers),
        "overlap_skipped": {"der": round(alone.der, 4), "error_share": round(_errors(alone) / everything, 4)},
        "worst": [
            {
                "recording": score.recording,
                **{key: score.counts[WITH_COLLAR].to_dict()[key] for key in ("der", *PARTS)},
                "error_share": round(_errors(score.counts[WITH_COLLAR]) / everything, 4),
                "true_speakers": score.true_speakers,
                "answered_speakers": score.answered_speakers,
            }
            for score in ranked
        ],
    }


def limit_lines(name: str, limits: Mapping[str, Any], differences: Mapping[str, tuple[float, float]]) -> list[str]:
    """What `find_limits` found, and the paired differences to other systems, as lines of Markdown."""
    kinds = ", ".join(f"{kind.replace('_', ' ')} {_percent(v)} %" for kind, v in limits["error_share"].items())
    numbers = ", ".join(
        f"{n} speakers DER {_percent(part['der'])} % ({_percent(part['error_share'])} % of all error)"
        for n, part in limits["by_speakers"].items()
    )
    counts = "; ".join(
        f"{words} in {limits[key]['recordings']}: DER {_percent(limits[key]['der'])} %"
        for key, words in (
            ("count_right", "right"),
            ("too_few_speakers", "too low"),
            ("too_many_speakers", "too high"),
        )
        if limits[key]["recordings"]
    )
    alone = limits["overlap_skipped"]
    worst = "; ".join(
        f"`{w['recording']}` {_percent(w['der'])} % (missed {_percent(w['missed'])}, false alarm "
        f"{_percent(w['false_alarm'])}, confusion {_percent(w['confusion'])}; {w['answered_speakers']} of "
        f"{w['true_speakers']} speakers; {_percent(w['error_share'])} % of all error)"
        for w in limits["worst"]
    )
    lines = [
        f"- {name}, error by kind: {kinds}.",
        f"- {name}, by number of speakers: {numbers}.",
        f"- {name}, number of speakers {counts}.",
        f"- {name}, where at most one speaks: DER {_percent(alone['der'])} %, {_percent(alone['error_share'])} % of "
        "the error seconds; the rest is where several do.",
        f"- {name}, worst: {worst}.",
    ]
    if differences:
        gaps = "; ".join(
            f"{system} {_percent(low)} to {_percent(high)}" for system, (low, high) in differences.items()
        )
        lines.append(f"- {name}, DER of the model minus that of another system, paired 90 % interval, points: {gaps}.")
    return lines


def speakers_table(systems: Mapping[str, Mapping[str, Any]], collar: str) -> str:
    """DER with its interval per system and number of speakers; `collar` is a key as `collar_0.25`."""
    groups = list(next(iter(systems.values())))
    heads = ["all" if group == "all" else f"{group} speakers" for group in groups]
    rows = [["system", *heads, "missed / false alarm / confusion", "JER", "speaker count right"]]
    for name, summary in systems.items():
        total = summary["all"]
        cells = [_with_interval(summary[group][collar]["der"], summary[group][collar]["interval"]) for group in groups]
        jer = _with_interval(total["jer"], total["jer_interval"])
        right = _with_interval(total["speaker_count_accuracy"], total["speaker_count_interval"], digits=0)
        parts = " / ".join(_percent(total[collar][kind]) for kind in PARTS)
        rows.append([name, *cells, parts, jer, right])
    return _markdown(rows)


def draw_chart(sets: Mapping[str, Mapping[str, Any]], path: str | Path, *, note: str = "") -> None:
    """Draw DER at collar 0.25 s: per set the parts stacked, with the interval of their sum; the first set per number.

    Args:
        sets: summaries by set and system, as in the JSON; all sets have the same systems.
        path: PNG file to write; its folder is made.
        note: small print below.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(next(iter(sets.values())))
    height = 1.75 + 0.56 * len(names)
    figure = Figure(figsize=(13.5, height), facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(sets) + 1, sharey=True)
    figure.subplots_adjust(left=0.205, right=0.985, top=1 - 0.92 / height, bottom=0.83 / height, wspace=0.06)
    first = next(iter(sets))
    _draw_stacks(panels[0], sets[first], f"{first}: all {sets[first][names[0]]['all']['recordings']} recordings")
    _draw_counts(panels[1], sets[first], f"{first}: by number of speakers")
    for axes, set_name in zip(panels[2:], list(sets)[1:], strict=True):
        number = sets[set_name][names[0]]["all"]["recordings"]
        _draw_stacks(axes, sets[set_name], f"{set_name}: {number} recordings")
    panels[0].set_yticks(range(len(names)), [name.replace(", ", ",\n") for name in names], fontsize=10)
    panels[0].set_ylim(len(names) - 0.45, -0.55)
    for label in panels[0].get_yticklabels()[:1]:
        label.set_fontweight("bold")
    figure.text(0.012, 1 - 0.3 / height, "Diarization error rate", fontsize=14, fontweight="bold", va="center")
    about = "collar 0.25 s, overlap scored; lines: 90 % bootstrap interval over recordings"
    figure.text(0.205, 1 - 0.3 / height, about, fontsize=10, color="#555555", va="center")
    figure.text(0.012, 0.16 / height, note, fontsize=7.5, color="#777777", va="center")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _draw_stacks(axes: Axes, systems: Mapping[str, Any], title: str) -> None:
    """One bar per system, its parts side by side, the sum written behind the interval."""
    end = 0.0
    for y, summary in enumerate(systems.values()):
        part, left = summary["all"]["collar_0.25"], 0.0
        for kind, color in PART_COLORS.items():
            axes.barh(y, 100 * part[kind], left=left, height=0.58, color=color, zorder=2)
            left += 100 * part[kind]
        low, high = (100 * value for value in part["interval"])
        _whisker(axes, low, high, y, linewidth=1.3, cap=6)
        axes.text(max(high, left), y, f"  {left:.1f}", va="center", fontsize=9.5, zorder=4)
        end = max(end, high, left)
    handles = [_patch(color, kind.replace("_", " ")) for kind, color in PART_COLORS.items()]
    _finish(axes, title, end, handles)


def _draw_counts(axes: Axes, systems: Mapping[str, Any], title: str) -> None:
    """Thin bars, one per number of speakers."""
    end = 0.0
    numbers = [n for n in next(iter(systems.values())) if n != "all"]
    thickness = 0.72 / max(len(numbers), 1)
    for y, summary in enumerate(systems.values()):
        for k, number in enumerate(numbers):
            part = summary[number]["collar_0.25"]
            place, der = y + (k - (len(numbers) - 1) / 2) * thickness, 100 * part["der"]
            low, high = (100 * value for value in part["interval"])
            axes.barh(place, der, height=0.9 * thickness, color=COUNT_COLORS.get(number, "#888888"), zorder=2)
            _whisker(axes, low, high, place, linewidth=0.9)
            axes.text(max(high, der), place, f"  {der:.1f}", va="center", fontsize=7, zorder=4)
            end = max(end, high, der)
    _finish(axes, title, end, [_patch(COUNT_COLORS.get(n, "#888888"), f"{n} speakers") for n in numbers])


def _whisker(axes: Axes, low: float, high: float, y: float, *, linewidth: float, cap: float = 0) -> None:
    """An interval, with a light rim so that it is seen on dark bars; none where there is no spread."""
    if high > low:
        for color, width in (("white", linewidth + 1.4), ("black", linewidth)):
            marker = {"marker": "|", "markersize": cap, "markeredgewidth": width} if cap else {}
            axes.plot([low, high], [y, y], color=color, linewidth=width, zorder=3, **marker)


def _finish(axes: Axes, title: str, end: float, handles: list[Any]) -> None:
    axes.set_title(title, fontsize=10.5, loc="left", pad=8)
    axes.set_xlim(0, 1.16 * max(end, 1e-3))
    axes.set_xlabel("%", fontsize=9, labelpad=1, loc="right")
    axes.grid(axis="x", color="#E2E2E2", linewidth=0.7, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8.5, length=3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(-0.015, -0.075),
        ncols=len(handles),
        frameon=False,
        fontsize=8.5,
        handlelength=0.9,
        handletextpad=0.4,
        columnspacing=1.0,
    )


def _patch(color: str, label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(facecolor=color, label=label)


def _errors(counts: ErrorCounts) -> float:
    return counts.missed + counts.false_alarm + counts.confusion


def _percent(rate: float | None, digits: int = 1) -> str:
    return "-" if rate is None else f"{100 * rate:.{digits}f}"


def _with_interval(rate: float | None, bounds: Sequence[float], digits: int = 1) -> str:
    if bounds[0] == bounds[1]:
        return _percent(rate, digits)
    return f"{_percent(rate, digits)} [{_percent(bounds[0], digits)}, {_percent(bounds[1], digits)}]"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join(lines)
