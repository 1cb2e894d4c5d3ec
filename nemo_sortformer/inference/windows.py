# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Recordings too long for one pass, window by window: memory that depends on the window, not on the recording."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nemo_sortformer.functional.frames import num_label_frames
from nemo_sortformer.functional.permutation import best_assignment, pairwise_bce

if TYPE_CHECKING:
    from nemo_sortformer.models.diarizer.model import SortformerDiarizer

WINDOW_SECONDS = 20.0
"""Length of a window where embeddings are clustered afterwards."""
CONTEXT_SECONDS = 2.0
"""Heard on each side of a window, beyond what is kept of it."""
MIN_SECONDS = 0.2
"""Shorter recordings are padded with silence to this: the encoder needs a few frames for its normalization."""


class Outputs(NamedTuple):
    """What the model says about one recording, on the CPU."""

    probs: np.ndarray
    """Speech probabilities, shape (frames, slots), float32."""
    embeddings: np.ndarray | None
    """Unit-norm affinity embeddings, shape (frames, dim), float32; None where the model has none."""


class Window(NamedTuple):
    """Frames of one window: `first` to `last` are heard, `keep_first` to `keep_last` are kept."""

    first: int
    last: int
    keep_first: int
    keep_last: int


def plan_windows(num_frames: int, *, window_frames: int, context_frames: int) -> list[Window]:
    """Cover a recording with windows of equal length; what is kept of them tiles the recording exactly.

    Neighbours share at least `2 * context_frames`. A recording shorter than a window is one window.

    Raises:
        ValueError: the context leaves nothing of the window.

    Example:
        >>> [tuple(w) for w in plan_windows(25, window_frames=10, context_frames=2)]
        [(0, 10, 0, 8), (6, 16, 8, 14), (12, 22, 14, 20), (15, 25, 20, 25)]
    """
    step = window_frames - 2 * context_frames
    if step < 1 or context_frames < 0:
        raise ValueError(
            f"A window of {window_frames} frames must be longer than twice its context, but that is {context_frames} "
            "frames on each side. Lengthen the window."
        )
    if num_frames <= window_frames:
        return [Window(0, num_frames, 0, num_frames)]
    windows, kept = [], 0
    for number in range(math.ceil((num_frames - window_frames) / step) + 1):
        first = min(number * step, num_frames - window_frames)
        last = first + window_frames
        keep_last = num_frames if last == num_frames else last - context_frames
        windows.append(Window(first, last, kept, keep_last))
        kept = keep_last
    return windows


def batch_outputs(model: SortformerDiarizer, recordings: list[np.ndarray]) -> list[Outputs]:
    """Run recordings, shape (samples,) each, as one batch; each result is cut to its own recording's length."""
    shortest = math.ceil(MIN_SECONDS * model.config.sample_rate)
    lengths = torch.tensor([max(len(audio), shortest) for audio in recordings])
    signal = torch.zeros(len(recordings), int(lengths.max()))
    for row, audio in zip(signal, recordings, strict=True):
        row[: len(audio)] = torch.from_numpy(np.ascontiguousarray(audio))
    with torch.inference_mode():
        output = model(audio_signal=signal.to(model.device), audio_signal_length=lengths.to(model.device))
        probs = output.probs.float().cpu()
        embeddings = None if output.embeddings is None else output.embeddings.float().cpu()
        valid = output.lengths.cpu()
    results = []
    for i, audio in enumerate(recordings):
        frames = min(int(valid[i]), frames_of(model, len(audio)))
        vectors = None if embeddings is None else embeddings[i, :frames].clone().numpy()
        results.append(Outputs(probs[i, :frames].clone().numpy(), vectors))
    return results


def frames_of(model: SortformerDiarizer, num_samples: int) -> int:
    """Number of output frames for so many samples."""
    return int(num_label_frames(num_samples, hop_samples=model.hop_samples, subsampling=model.subsampling))


def windowed_outputs(
    model: SortformerDiarizer,
    audio: np.ndarray,
    *,
    window_seconds: float = WINDOW_SECONDS,
    context_seconds: float = CONTEXT_SECONDS,
    batch_size: int = 8,
) -> Outputs:
    """Run a recording window by window and put the pieces together.

    Slots are only ordered by arrival within a window: those of each window are matched with the window before it by
    the frames that the two share (at least twice the context), the first window's order wins. Whom the shared frames
    do not hold is matched by chance; clustering the embeddings afterwards does not depend on it.

    Args:
        model: in evaluation mode.
        audio: samples at the model's rate, shape (samples,).
        window_seconds: length of a window, its context included.
        context_seconds: seconds on each side of a window that are heard but not kept.
        batch_size: windows run at once.

    Returns:
        Probabilities (frames, slots) and embeddings (frames, dim) of the whole recording.
    """
    frame = model.hop_samples * model.subsampling
    total = frames_of(model, len(audio))
    windows = plan_windows(
        total,
        window_frames=round(window_seconds / model.frame_seconds),
        context_frames=round(context_seconds / model.frame_seconds),
    )
    probs: list[np.ndarray] = []
    embeddings: list[np.ndarray] = []
    before: tuple[Window, np.ndarray] | None = None
    for group in _groups(windows, batch_size):
        pieces = [audio[w.first * frame : w.last * frame if w.last < total else None] for w in group]
        for window, output in zip(group, batch_outputs(model, pieces), strict=True):
            ordered = output.probs if before is None else _in_order_of(before, window, output.probs)
            before = window, ordered
            kept = slice(window.keep_first - window.first, window.keep_last - window.first)
            probs.append(ordered[kept])
            if output.embeddings is not None:
                embeddings.append(output.embeddings[kept])
    return Outputs(np.concatenate(probs), np.concatenate(embeddings) if embeddings else None)


def _in_order_of(before: tuple[Window, np.ndarray], window: Window, probs: np.ndarray) -> np.ndarray:
    """The columns of `probs` in the order of those of the window before it."""
    old_window, old_probs = before
    shared = old_window.last - window.first
    if shared <= 0:
        return probs
    return probs[:, match_columns(probs[:shared], old_probs[-shared:])]


def match_columns(probs: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Order of the columns of `probs` (T, S) that fits `wanted` (T, S) best: the j-th entry belongs in column j."""
    logits = torch.logit(torch.from_numpy(probs), eps=1e-4)[None]
    cost_BSS: Tensor = pairwise_bce(logits, torch.from_numpy(wanted)[None])
    assigned = best_assignment(cost_BSS)[0].numpy()
    return np.argsort(assigned)


def _groups(windows: list[Window], size: int) -> Iterator[list[Window]]:
    for start in range(0, len(windows), max(size, 1)):
        yield windows[start : start + max(size, 1)]
