# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The permutation encoding at work: what each layer takes the labels to be, before and after it sorts them.

A SortFormer layer estimates the labels in columns of its own choice, and sorts these by arrival before it adds them to
its states. Both are picked up by hooks, so that nothing is computed or kept where nobody looks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nemo_sortformer.data.segment import Segment
from nemo_sortformer.functional.arrival import arrival_frames, arrival_gate
from nemo_sortformer.inference.engine import evaluating
from nemo_sortformer.inference.report import clock, speaker_color
from nemo_sortformer.modules.label_feedback import LabelFeedback

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LANE_INCHES, GAP_INCHES, TOP_INCHES, BOTTOM_INCHES = 0.19, 0.32, 0.95, 0.15
WIDTH_INCHES = 14.0
LEFT, SPLIT, RIGHT = (0.075, 0.495), (0.505, 0.56), (0.565, 0.985)
"""Left and right edge, as shares of the width, of the panel before, of the wires, and of the panel after sorting."""
_FAINT = "#B0B0B0"


class LayerEstimate(NamedTuple):
    """What one layer takes the labels of a sequence to be."""

    before: NDArray[np.float32]
    """Label probabilities as the layer estimates them, shape (frames, labels)."""
    after: NDArray[np.float32]
    """The same columns as they are fed back, in a causal layer zero before they arrive, shape (frames, labels)."""
    order: NDArray[np.int64]
    """Column r of `after` is column `order[r]` of `before`, shape (labels,)."""


@dataclass(frozen=True)
class EncodingTrace:
    """One sequence on its way through a model."""

    layers: tuple[LayerEstimate, ...]
    """All layers that estimate labels, from the first to the last."""
    probs: NDArray[np.float32]
    """The answer of the model, shape (frames, slots)."""
    frame_seconds: float
    """Seconds from one frame to the next."""


@contextmanager
def recorded_estimates(model: nn.Module) -> Iterator[list[tuple[Tensor, Tensor, Tensor]]]:
    """While the context is open, each layer that estimates labels leaves its logits in a list.

    Yields:
        The list: per layer and call the logits before and after sorting, and the gate on the latter's probabilities (1
        where they are fed back), each of shape (batch, frames, labels).

    Raises:
        ValueError: no layer of the model estimates labels.
    """
    layers = [module for module in model.modules() if isinstance(module, LabelFeedback)]
    if not layers:
        raise ValueError(
            "The model has no layer that estimates labels, so there is no permutation encoding to see. Take one with "
            "a SortformerEncoder of two layers or more, with `feedback`."
        )
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    raw: list[Tensor] = []

    def keep_raw(module: nn.Module, inputs: Any, output: Tensor) -> None:
        raw.append(output.detach())

    def keep_sorted(module: nn.Module, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        gate = torch.ones_like(output[1])
        if module.causal and module.sort:  # as the layer does: a column that has not arrived yet adds nothing
            gate = arrival_gate(output[1].sigmoid(), inputs[2])
        found.append((raw.pop(), output[1].detach(), gate))

    handles = [layer.labels.register_forward_hook(keep_raw) for layer in layers]
    handles += [layer.register_forward_hook(keep_sorted) for layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def trace_encoding(model: Any, sequence: NDArray[np.floating] | Tensor) -> EncodingTrace:
    """Run one sequence through a diarizer or a labeler and keep what its layers estimate.

    Args:
        model: a `SortformerDiarizer` or `SortformerLabeler`; its mode is put back afterwards.
        sequence: audio (samples,) at the model's rate, or embeddings (frames, dim).

    Raises:
        ValueError: no layer of the model estimates labels, or the sequence is empty.
    """
    tensor = torch.as_tensor(sequence, dtype=torch.float32, device=model.device)[None]
    if tensor.shape[1] == 0:
        raise ValueError("`sequence` must have one frame or more, but is empty.")
    with evaluating(model), recorded_estimates(model) as found, torch.inference_mode():
        length = torch.tensor([tensor.shape[1]], device=model.device)
        names = list(model.input_types)
        output = model(**{names[0]: tensor, names[1]: length})
    frames = int(output.lengths[0])
    layers = [_estimate(*(one[0, :frames].float().cpu() for one in kept)) for kept in found]
    return EncodingTrace(tuple(layers), output.probs[0, :frames].float().cpu().numpy(), model.frame_seconds)


def _estimate(before: Tensor, after: Tensor, gate: Tensor) -> LayerEstimate:
    """Columns are found again by their values: two that are equal throughout may change places, and none can tell."""
    taken: list[int] = []
    for column in after.T:
        distance = (before - column[:, None]).abs().amax(dim=0)
        distance[taken] = torch.inf
        taken.append(int(distance.argmin()))
    return LayerEstimate(before.sigmoid().numpy(), (after.sigmoid() * gate).numpy(), np.array(taken))


def plot_encoding(
    trace: EncodingTrace,
    *,
    truth: Sequence[Segment] | None = None,
    path: str | Path | None = None,
    title: str = "",
) -> Figure:
    """Draw the estimates of all layers, before sorting on the left and after it on the right, and the answer.

    A column of a layer keeps its colour on both sides, and a wire leads from one to the other. A mark stands where a
    column arrives: where it first rises above one half. The truth, sorted by arrival, stands under the answer and, as
    a black line, in the lanes on the right, where slot k should be the k-th to arrive.

    Args:
        trace: of :func:`trace_encoding`.
        truth: true segments in seconds from the start of the sequence.
        path: where to save the picture, too (PNG, PDF or SVG).
        title: first line of the picture.

    Returns:
        The figure, which pyplot does not know of.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lanes = [layer.before.shape[1] for layer in trace.layers] + [trace.probs.shape[1]]
    true_spans = _spans_by_arrival(truth)
    lanes += [max(len(true_spans), 1)] if truth is not None else []
    height = TOP_INCHES + BOTTOM_INCHES + sum(LANE_INCHES * count + GAP_INCHES for count in lanes)
    figure = Figure(figsize=(WIDTH_INCHES, height))
    FigureCanvasAgg(figure)
    tops = height - TOP_INCHES - np.cumsum([0.0, *(LANE_INCHES * count + GAP_INCHES for count in lanes)])
    seconds = len(trace.probs) * trace.frame_seconds

    def panel(row: int, edges: tuple[float, float]) -> Axes:
        inches = LANE_INCHES * lanes[row]
        return figure.add_axes((edges[0], (tops[row] - inches) / height, edges[1] - edges[0], inches / height))

    for row, layer in enumerate(trace.layers):
        colors = [speaker_color(column) for column in range(lanes[row])]
        left, wires, right = (panel(row, edges) for edges in (LEFT, SPLIT, RIGHT))
        _draw_lanes(left, layer.before, colors, trace.frame_seconds)
        _draw_lanes(right, layer.after, [colors[column] for column in layer.order], trace.frame_seconds)
        _draw_truth(right, true_spans)
        _draw_wires(wires, layer, colors)
        left.set_ylabel(f"layer {row + 1}", rotation=0, ha="right", va="center", fontsize=10, labelpad=8)
    answer = panel(len(trace.layers), RIGHT)
    _draw_lanes(answer, trace.probs, ["#555555"] * trace.probs.shape[1], trace.frame_seconds)
    _draw_truth(answer, true_spans)
    bottom = answer
    _name(answer, "the model's answer")
    if truth is not None:
        bottom = panel(len(trace.layers) + 1, RIGHT)
        _draw_bars(bottom, true_spans)
        _name(bottom, "truth, in order of arrival")
    for axes in figure.axes:
        _finish(axes, seconds, trace.frame_seconds, labelled=axes is bottom or axes is figure.axes[0])
    _head(figure, height, title, len(trace.layers), has_truth=truth is not None)
    if trace.layers:
        last_left = figure.axes[3 * (len(trace.layers) - 1)]
        figure.axes[0].tick_params(labelbottom=last_left is figure.axes[0])
        last_left.tick_params(labelbottom=True)
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
    return figure


def _spans_by_arrival(truth: Sequence[Segment] | None) -> list[list[tuple[float, float]]]:
    """(start, width) of the segments of each speaker, the first to arrive first."""
    names = dict.fromkeys(segment.speaker for segment in sorted(truth or (), key=lambda s: s.start))
    return [[(s.start, s.end - s.start) for s in truth or () if s.speaker == name] for name in names]


def _draw_lanes(axes: Axes, probs: NDArray[np.float32], colors: Sequence[str], frame_seconds: float) -> None:
    """One lane per column, downwards; the height of the filling is the probability."""
    edges = np.arange(len(probs) + 1) * frame_seconds
    arrivals = arrival_frames(torch.from_numpy(np.ascontiguousarray(probs))[None])[0].tolist()
    for lane, (column, color, arrival) in enumerate(zip(probs.T, colors, arrivals, strict=True)):
        heard = arrival < len(probs)
        low = lane + 0.45
        steps = low - 0.9 * np.append(column, column[-1:])
        axes.fill_between(edges, low, steps, step="post", color=color if heard else _FAINT, alpha=0.85, linewidth=0)
        if heard:
            axes.plot(edges[arrival], lane, marker=">", color="black", markersize=4.5, clip_on=False, zorder=6)
    axes.set_ylim(probs.shape[1] - 0.5, -0.5)


def _draw_truth(axes: Axes, spans: list[list[tuple[float, float]]]) -> None:
    """Under each lane a line where the speaker of this rank is active."""
    lowest = axes.get_ylim()[0]
    for lane, own in enumerate(spans):
        if lane < lowest:
            starts = [start for start, _ in own]
            ends = [start + width for start, width in own]
            axes.hlines([lane + 0.45] * len(own), starts, ends, color="black", linewidth=2, zorder=5)


def _draw_bars(axes: Axes, spans: list[list[tuple[float, float]]]) -> None:
    for lane, own in enumerate(spans):
        axes.broken_barh(own, (lane - 0.38, 0.76), facecolors="black")
    axes.set_ylim(max(len(spans), 1) - 0.5, -0.5)
    if not spans:
        axes.text(0.5, 0.5, "nothing is active", transform=axes.transAxes, ha="center", va="center", fontsize=8)


def _draw_wires(axes: Axes, layer: LayerEstimate, colors: Sequence[str]) -> None:
    count = len(layer.order)
    heard = (layer.before > 0.5).any(axis=0)
    for rank, column in enumerate(layer.order):
        axes.plot([0, 0.15, 0.85, 1], [column, column, rank, rank], color=colors[column] if heard[column] else _FAINT,
                  linewidth=2.2 if heard[column] else 0.8)  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(count - 0.5, -0.5)


def _name(axes: Axes, text: str) -> None:
    axes.set_ylabel(text, rotation=0, ha="right", va="center", fontsize=10, labelpad=14)


def _finish(axes: Axes, seconds: float, frame_seconds: float, *, labelled: bool) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_yticks([])
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    if axes.get_xlim() == (0.0, 1.0):  # wires
        axes.set_xticks([])
        return
    axes.set_facecolor("#F6F6F6")
    axes.set_xlim(0, seconds)
    axes.xaxis.set_major_locator(MaxNLocator(8))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:g}" if frame_seconds == 1 else clock(value))
    )
    axes.tick_params(axis="x", labelsize=8, length=0, labelbottom=labelled)
    for lane in np.arange(0.5, max(axes.get_ylim()) - 0.25):
        axes.axhline(lane, color="white", linewidth=1.2, zorder=4)


def _head(figure: Figure, height: float, title: str, num_layers: int, *, has_truth: bool) -> None:
    def write(x: float, inches: float, text: str, **style: Any) -> None:
        figure.text(x, 1 - inches / height, text, va="center", **style)

    write(LEFT[0], 0.25, title or "Permutation encoding", fontsize=13, fontweight="bold")
    write(LEFT[0], 0.7, "estimated by the layer: columns in any order", fontsize=11)
    write(RIGHT[0], 0.7, "sorted by arrival: what the layer adds to its states", fontsize=11)
    notes = ["Height: probability. Triangle: first frame above one half.", "Colour: column of the layer's estimate;"]
    notes += ["grey: one that is never above one half.", "Wires: how the layer sorts by arrival."]
    notes += ["Black line: truth. Slot k should be the k-th to arrive."] if has_truth else []
    low = figure.axes[3 * num_layers].get_position()
    figure.text(LEFT[0], low.y1, "\n".join(notes), fontsize=9, va="top", color="#333333", linespacing=1.6)
