# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Recordings too long for one pass, window by window: memory that depends on the window, not on the recording."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nemo_sortformer.functional.frames import num_label_frames
from nemo_sortformer.functional.permutation import best_assignment, pairwise_bce
from nemo_sortformer.inference.speaker_memory import SpeakerMemory

if TYPE_CHECKING:
    from nemo_sortformer.inference.long_audio import LongAudio
    from nemo_sortformer.inference.partial_work import PartialWork
    from nemo_sortformer.models.diarizer.model import SortformerDiarizer

WINDOW_SECONDS = 20.0
"""Length of a window where embeddings are clustered afterwards."""
CONTEXT_SECONDS = 2.0
"""Heard on each side of a window, beyond what is kept of it."""
MEMORY_SECONDS = 8.0
"""Remembered of each speaker where the label heads name them."""
BLOCK_SECONDS = 600.0
"""So much of a recording has its level set, and its mel features made and normalized, at once: the quiet minutes of a
meeting must not be made as loud as the others, and memory must not grow with the length."""
MIN_SECONDS = 0.2
"""Shorter recordings are padded with silence to this: the encoder needs a few frames for its normalization."""


class Outputs(NamedTuple):
    """What the model says about one recording, on the CPU."""

    probs: np.ndarray
    """Speech probabilities, shape (frames, slots), float32."""
    embeddings: np.ndarray | None
    """Unit-norm affinity embeddings, shape (frames, dim), float32; None where the model has none."""
    activity: np.ndarray | None = None
    """Probabilities that at least one, and at least two speak, shape (frames, 2); None where the model has none."""


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
    with torch.inference_mode():
        mel, lengths = _mel_of(model, recordings)
        return run_features(model, mel, lengths, [frames_of(model, len(audio)) for audio in recordings])


def _mel_of(model: SortformerDiarizer, recordings: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Mel features (recordings, bands, hops) of recordings padded to the same length, and their valid hops."""
    shortest = math.ceil(MIN_SECONDS * model.config.sample_rate)
    lengths = torch.tensor([max(len(audio), shortest) for audio in recordings])
    signal = torch.zeros(len(recordings), int(lengths.max()))
    for row, audio in zip(signal, recordings, strict=True):
        row[: len(audio)] = torch.from_numpy(np.ascontiguousarray(audio))
    return model.mel_features(signal.to(model.device), lengths.to(model.device))


def run_features(model: SortformerDiarizer, mel: Tensor, mel_lengths: Tensor, most_frames: list[int]) -> list[Outputs]:
    """Run mel features as one batch; each result has its own valid frames, at most `most_frames` of them."""
    output = model.forward_features(mel, mel_lengths)
    probs = output.probs.float().cpu()
    embeddings = None if output.embeddings is None else output.embeddings.float().cpu()
    activity = None if output.activity_logits is None else output.activity_logits.float().sigmoid().cpu()
    results = []
    for i, (valid, most) in enumerate(zip(output.lengths.tolist(), most_frames, strict=True)):
        frames = min(valid, most)
        vectors = None if embeddings is None else embeddings[i, :frames].clone().numpy()
        counts = None if activity is None else activity[i, :frames].clone().numpy()
        results.append(Outputs(probs[i, :frames].clone().numpy(), vectors, counts))
    return results


def frames_of(model: SortformerDiarizer, num_samples: int) -> int:
    """Number of output frames for so many samples."""
    return int(num_label_frames(num_samples, hop_samples=model.hop_samples, subsampling=model.subsampling))


def windowed_outputs(
    model: SortformerDiarizer,
    audio: np.ndarray | LongAudio,
    *,
    window_seconds: float = WINDOW_SECONDS,
    context_seconds: float = CONTEXT_SECONDS,
    batch_size: int = 8,
    memory_seconds: float = 0.0,
    work: PartialWork | None = None,
    on_windows: Callable[[int, int], None] | None = None,
) -> Outputs:
    """Run a recording window by window and put the pieces together.

    Slots are only ordered by arrival within a window: those of each window are matched with the window before it by
    the frames that the two share (at least twice the context), the first window's order wins. Whom the shared frames
    do not hold is matched by what is remembered of each speaker, which is played before the window, or by chance
    without `memory_seconds`; clustering the embeddings afterwards does not depend on it.

    Args:
        model: in evaluation mode.
        audio: samples at the model's rate, shape (samples,).
        window_seconds: length of a window, its context included.
        context_seconds: seconds on each side of a window that are heard but not kept.
        batch_size: windows run at once; one by one where speakers are remembered.
        memory_seconds: seconds remembered of each speaker.
        work: what is done, to be kept for a later run, and what an earlier run has done.
        on_windows: called with the number of windows done and of all windows.

    Returns:
        Probabilities (frames, slots), embeddings (frames, dim) and activity (frames, 2) of the whole recording.
    """
    frames_per_speaker = round(memory_seconds / model.frame_seconds)
    memory = None
    if frames_per_speaker > 0:
        memory = SpeakerMemory(
            model.num_slots, frames_per_speaker=frames_per_speaker, hops_per_frame=model.subsampling
        )
        batch_size = 1
    plan = _plan(model, len(audio), window_seconds, context_seconds)
    number = sum(len(windows) for _, windows in plan)
    pieces: list[Outputs] = []
    before: tuple[Window, np.ndarray] | None = None
    for step in _steps(model, audio, plan, batch_size, memory, work):
        window, output = step.window, step.output
        ordered = output.probs
        if before is not None:
            ordered = _in_order_of(before, window, output.probs, step.known)
        played = 0 if step.known is None else len(step.known)
        ordered = ordered[played:]
        before = window, ordered
        if memory is not None and step.mel is not None:
            memory.remember(step.mel, ordered, place=window.first)
        kept = slice(window.keep_first - window.first, window.keep_last - window.first)
        both = (output.embeddings, output.activity)
        vectors, counts = (None if part is None else part[played:][kept] for part in both)
        pieces.append(Outputs(ordered[kept], vectors, counts))
        if on_windows is not None:
            on_windows(len(pieces), number)
    columns = zip(*pieces, strict=True)
    return Outputs(*(None if parts[0] is None else np.concatenate(parts) for parts in columns))


class _Step(NamedTuple):
    """One window that has been run."""

    window: Window
    output: Outputs
    """Of the window, behind that of what is remembered, which was played before it."""
    known: np.ndarray | None
    """Probabilities known of what was played before, shape (frames, slots)."""
    mel: Tensor | None
    """Features of the window, shape (bands, hops); none where nobody needs them."""


def _plan(
    model: SortformerDiarizer, num_samples: int, window_seconds: float, context_seconds: float
) -> list[tuple[Window, list[Window]]]:
    """Blocks of a recording, whose mel features are made and normalized together, and the windows of each."""
    total = frames_of(model, num_samples)
    context = round(context_seconds / model.frame_seconds)
    size = round(window_seconds / model.frame_seconds)
    longest = max(round(BLOCK_SECONDS / model.frame_seconds), size)
    plan = []
    for block in plan_windows(total, window_frames=longest, context_frames=context):
        planned = plan_windows(block.last - block.first, window_frames=size, context_frames=context)
        windows = [_in_recording(window, block) for window in planned]
        # the last block begins where the one before has been already: what is kept of neither is not run again
        plan.append((block, [window for window in windows if window.keep_first < window.keep_last]))
    return plan


def _steps(
    model: SortformerDiarizer,
    audio: np.ndarray | LongAudio,
    plan: list[tuple[Window, list[Window]]],
    batch_size: int,
    memory: SpeakerMemory | None,
    work: PartialWork | None,
) -> Iterator[_Step]:
    """Run all windows, or take what is done of them from an earlier run."""
    hops = model.subsampling
    for block, windows in plan:
        mel: Tensor | None = None
        for group in _groups(windows, batch_size):
            done = None if work is None else work.next()
            if mel is None and (done is None or memory is not None):
                mel = _mel_of_block(model, audio, block)
            parts: list[Tensor | None] = [None] * len(group)
            if mel is not None:
                parts = [mel[:, (w.first - block.first) * hops : (w.last - block.first) * hops] for w in group]
            heard, known = (None, None) if memory is None else memory.recall()
            if done is None:
                done = _run_group(model, group, [part for part in parts if part is not None], heard)
                if work is not None:
                    work.add(done)
            for window, output, part in zip(group, done, parts, strict=True):
                yield _Step(window, output, known, None if memory is None else part)


def _run_group(
    model: SortformerDiarizer, group: list[Window], parts: list[Tensor], heard: Tensor | None
) -> list[Outputs]:
    """Run the mel features of some windows as one batch, with `heard` before each."""
    with torch.inference_mode():
        if heard is not None:
            parts = [torch.cat([heard, part], dim=1) for part in parts]
        extra = 0 if heard is None else heard.shape[1] // model.subsampling
        lengths = torch.tensor([part.shape[1] for part in parts], device=parts[0].device)
        batch = torch.nn.utils.rnn.pad_sequence([part.T for part in parts], batch_first=True).mT
        return run_features(model, batch, lengths, [extra + w.last - w.first for w in group])


def _mel_of_block(model: SortformerDiarizer, audio: np.ndarray | LongAudio, block: Window) -> Tensor:
    """Mel features of a block, shape (bands, hops)."""
    per_frame = model.hop_samples * model.subsampling
    piece = audio[block.first * per_frame : min(block.last * per_frame, len(audio))]
    with torch.inference_mode():
        mel, length = _mel_of(model, [piece])
    return mel[0, :, : int(length[0])]


def _in_recording(window: Window, block: Window) -> Window:
    """A window of a block as one of the recording; what the block does not keep, it does not keep either."""
    first, last, keep_first, keep_last = (frame + block.first for frame in window)
    return Window(first, last, max(keep_first, block.keep_first), min(keep_last, block.keep_last))


def _in_order_of(
    before: tuple[Window, np.ndarray], window: Window, probs: np.ndarray, known: np.ndarray | None
) -> np.ndarray:
    """The columns of `probs` in the order of the windows before: by the frames shared, and by those known."""
    old_window, old_probs = before
    shared = max(old_window.last - window.first, 0)
    wanted = old_probs[window.first - old_window.first :][:shared]
    if known is not None:
        wanted = np.concatenate([known, wanted])
    frames = min(len(wanted), len(probs))  # the recording's last window may lack its last frame
    return probs[:, match_columns(probs[:frames], wanted[:frames])] if frames else probs


def match_columns(probs: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Order of the columns of `probs` (T, S) that fits `wanted` (T, S) best: the j-th entry belongs in column j."""
    logits = torch.logit(torch.from_numpy(probs), eps=1e-4)[None]
    cost_BSS: Tensor = pairwise_bce(logits, torch.from_numpy(wanted)[None])
    assigned = best_assignment(cost_BSS)[0].numpy()
    return np.argsort(assigned)


def _groups(windows: list[Window], size: int) -> Iterator[list[Window]]:
    for start in range(0, len(windows), max(size, 1)):
        yield windows[start : start + max(size, 1)]
