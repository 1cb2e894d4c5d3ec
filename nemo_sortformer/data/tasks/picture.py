# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""One sequence of a task: which frames are alike, which classes are truly active, and what the answers say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemo_sortformer.data.tasks.folder import SplitArrays

_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_GRAY = "#f2f2f2"


def draw_sequence(
    path: str | Path,
    sequences: SplitArrays,
    number: int,
    answers: Mapping[str, NDArray[Any]],
    *,
    title: str,
    frame_seconds: float = 1.0,
) -> None:
    """Draw a sequence into a PNG.

    Args:
        path: of the picture.
        sequences: those of a split.
        number: which of them.
        answers: by what to call them, each (frames, any number of classes), columns in order of arrival.
        title: above the picture.
        frame_seconds: seconds per frame; 1 labels the axis in frames.
    """
    from matplotlib.figure import Figure

    embeddings = sequences.embeddings[number]
    rows = {f"truth {kind}".strip(): labels[number] for kind, labels in sequences.labels.items()}
    rows = {row: truth[:, np.argsort(truth.argmax(axis=0), kind="stable")] for row, truth in rows.items()}
    first = next(iter(sequences.labels.values()))[number]
    names = [sequences.classes[number][k] for k in np.argsort(first.argmax(axis=0), kind="stable")]
    main = next(iter(rows))
    rows |= answers
    heights = [max(labels.shape[1], 1) for labels in rows.values()]
    figure = Figure(figsize=(9, 3.3 + 0.3 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(rows) + 1, 1, sharex=True, height_ratios=[9, *heights])
    unit = embeddings / (np.linalg.norm(embeddings, axis=1, keepdims=True) + 1e-9)
    end = len(embeddings) * frame_seconds
    image = axes[0].imshow(
        unit @ unit.T, extent=(0, end, end, 0), aspect="auto", cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest"
    )
    figure.colorbar(image, ax=axes[0], label="cosine", pad=0.01)
    axes[0].set_ylabel("input: likeness\nof two frames")
    axes[0].set_title(title, loc="left")
    for axis, (row, labels) in zip(axes[1:], rows.items(), strict=True):
        for column in range(labels.shape[1]):
            active = np.flatnonzero(np.diff(np.pad(labels[:, column] > 0.5, 1).astype(np.int8))).reshape(-1, 2)
            bars = [(start * frame_seconds, (stop - start) * frame_seconds) for start, stop in active]
            axis.broken_barh(bars, (column - 0.42, 0.84), color=_COLORS[column % len(_COLORS)])
        axis.set_facecolor(_GRAY)
        ticks = names if row == main else [f"class {k}" for k in range(labels.shape[1])]
        axis.set_yticks(range(labels.shape[1]), ticks, fontsize=8)
        axis.set_ylim(max(labels.shape[1], 1) - 0.5, -0.5)
        axis.set_title(row, loc="left", fontsize=9)
    axes[-1].set_xlabel("frame" if frame_seconds == 1 else "seconds")
    axes[-1].set_xlim(0, end)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
