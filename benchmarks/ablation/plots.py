# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The summary as four pictures: learning curves, error by number of classes, by length, by training pool."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.ablation.tables import CAPTIONS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#33435C", "#4A86B8", "#8FB8D8", "#E1A037", "#B14A6D", "#5B8C5A", "#7A6FA8", "#9A9A9A")
Row = Mapping[str, Any]


def draw_all(summary: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw each part of the grid into `folder` as `ablation_<part>_<what>.png`, and give the files.

    Pictures of a grid that is not complete say so across the picture.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, part in summary["parts"].items():
        if not part["rows"]:
            continue
        pictures: dict[str, Callable[[Axes, Sequence[Row], Mapping[str, str]], None]] = {
            "curves": _curves,
            "lengths": _lengths,
            "classes": _classes,
        }
        for what, draw in pictures.items():
            pool = 64 if 64 in part["pools"] else part["pools"][0]
            panels = {
                f"loss: {loss}": [r for r in part["rows"] if r["loss"] == loss and r["pool"] == pool]
                for loss in part["losses"]
            }
            files.append(_figure(summary, panels, draw, folder / f"ablation_{name}_{what}.png", CAPTIONS[what]))
        if len(part["pools"]) > 1:
            panels = {"": part["rows"]}
            files.append(_figure(summary, panels, _pools, folder / f"ablation_{name}_pools.png", CAPTIONS["pools"]))
    return files


def _figure(
    summary: Mapping[str, Any],
    panels: Mapping[str, Sequence[Row]],
    draw: Callable[[Axes, Sequence[Row], Mapping[str, str]], None],
    path: Path,
    caption: str,
) -> Path:
    """One picture with a panel for each loss, sharing the axis of the error."""
    from matplotlib.figure import Figure

    panels = {title: rows for title, rows in panels.items() if rows}
    figure = Figure(figsize=(1 + 4.2 * len(panels), 4.4), dpi=110, layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, (title, rows) in zip(axes, panels.items(), strict=True):
        draw(ax, rows, summary["titles"])
        ax.set_title(title, fontsize=10)
        ax.grid(alpha=0.25)
        ax.set_ylim(0, None)
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
    axes[0].set_ylabel("error, % of active frames")
    figure.suptitle("\n".join(textwrap.wrap(caption, width=round(figure.get_figwidth() * 12))), fontsize=10)
    axes[-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    if not summary["complete"]:
        text = f"INCOMPLETE {summary['finished']}/{summary['runs']}"
        figure.text(0.5, 0.5, text, fontsize=40, color="red", alpha=0.4, ha="center", va="center", rotation=20)
    figure.savefig(path, metadata={"Software": None})
    return path


def _curves(ax: Axes, rows: Sequence[Row], titles: Mapping[str, str]) -> None:
    """Error over steps, as is: unseen classes solid, seen ones dashed."""
    for color, row in zip(_colors(rows), rows, strict=True):
        steps = [point["step"] for point in row["curve"]]
        for group, style in (("unseen", "-"), ("seen", "--")):
            values = [100 * point[group]["as_is"][0] for point in row["curve"]]
            ax.plot(steps, values, style, color=color, label=_label(row, titles) if group == "unseen" else None)
    ax.set_xlabel("training steps")


def _lengths(ax: Axes, rows: Sequence[Row], titles: Mapping[str, str]) -> None:
    """Error over length, as is and mapped."""
    _by_key(ax, rows, titles, "unseen")
    ax.set_xlabel("length / training length")


def _classes(ax: Axes, rows: Sequence[Row], titles: Mapping[str, str]) -> None:
    """Error over the number of classes, as is and mapped."""
    _by_key(ax, rows, titles, "by_classes")
    ax.set_xlabel("classes in the recording")


def _by_key(ax: Axes, rows: Sequence[Row], titles: Mapping[str, str], key: str) -> None:
    for color, row in zip(_colors(rows), rows, strict=True):
        names = list(row[key])
        places = [int(name) for name in names]
        for measure, style in (("as_is", "-o"), ("mapped", ":")):
            means = [100 * row[key][name][measure][0] for name in names]
            spreads = [100 * row[key][name][measure][1] for name in names]
            label = _label(row, titles) if measure == "as_is" else None
            ax.errorbar(places, means, spreads, fmt=style, color=color, label=label, markersize=3, capsize=2)
        ax.set_xticks(places)


def _pools(ax: Axes, rows: Sequence[Row], titles: Mapping[str, str]) -> None:
    """Error on seen and unseen classes over the size of the training pool."""
    pools = list(dict.fromkeys(row["pool"] for row in rows))
    systems = list(dict.fromkeys((row["system"], row["loss"]) for row in rows))
    for color, (system, loss) in zip(COLORS, systems, strict=False):
        own = [row for row in rows if (row["system"], row["loss"]) == (system, loss)]
        places = [pools.index(row["pool"]) for row in own]
        for group, style in (("unseen", "-o"), ("seen", "--")):
            values = [(row["unseen"]["1"] if group == "unseen" else row["seen"])["mapped"] for row in own]
            means, spreads = [100 * value[0] for value in values], [100 * value[1] for value in values]
            label = f"{titles[system]}, {loss}" if group == "unseen" else None
            ax.errorbar(places, means, spreads, fmt=style, color=color, label=label, markersize=3, capsize=2)
    ax.set_xticks(range(len(pools)), ["unlimited" if pool is None else str(pool) for pool in pools])
    ax.set_xlabel("classes in the training pool")


def _colors(rows: Sequence[Row]) -> list[str]:
    return [COLORS[i % len(COLORS)] for i in range(len(rows))]


def _label(row: Row, titles: Mapping[str, str]) -> str:
    return titles[row["system"]]
